"""Parsing of the sources of a configuration: YAML files, with line numbers, and key=value arguments.

A source is parsed into settings and diagnostics, so that one report can contain every error of every source. Plain
scalars follow YAML 1.2 (1e-2 is a number; 010 and no are text), not PyYAML's YAML 1.1 (1e-2 is text, 010 is 8, no is
false). Anchors, aliases and tags are rejected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from alexnet_dist.config import keys, named

COMMAND_LINE = "command line"
NULL = "tag:yaml.org,2002:null"
FLOAT_TAG = "tag:yaml.org,2002:float"
# YAML 1.2.2, section 10.3.2, without the octal and hexadecimal integers.
FLOAT = re.compile(
    r"([-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
)


@dataclass(frozen=True)
class Setting:
    """The value that a source assigns to a key; for the key of a layer None (removed) or {} (present)."""

    key: str
    value: object
    origin: str


@dataclass(frozen=True)
class Diagnostic:
    """An error in a source, with the file and line or the command line as origin."""

    origin: str
    text: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the plain scalars of YAML 1.2."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's name and type; None: any first character
        None: [
            (NULL, re.compile(r"(~|null|Null|NULL|)\Z")),
            ("tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z")),
            ("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")),
            (FLOAT_TAG, FLOAT),
        ]
    }


def read_file(path: Path) -> Iterator[Setting | Diagnostic]:
    """Yield the settings and errors of a YAML file or named configuration; origins are like configs/x.yaml:7."""
    try:
        text = named.locate(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        yield Diagnostic(str(path), named.not_found(path))
        return
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        yield Diagnostic(str(path), f"expected a YAML file, but it cannot be read: {reason}")
        return
    yield from _read(text, "", lambda line: f"{path}:{line + 1}")


def read_override(argument: str) -> Iterator[Setting | Diagnostic]:
    """Yield the settings and errors of a key=value argument of the command line.

    The value is YAML, which must end where the argument ends. For a key of type text, such as a path, it is the whole
    argument after the equals sign, with any # and colon, or a single quoted YAML text.
    """
    key, equals, text = argument.partition("=")
    name = key.strip()
    if not (equals and name):
        text = f"found {argument!r}, expected key=value, such as data.global_batch=64; use --config FILE for a file"
        yield Diagnostic(COMMAND_LINE, text)
    elif keys.is_text(name):
        # Written as one argument with spaces around the equals sign, as in a file: these are not part of the value.
        value = _unquoted(text.strip() if key != name else text)
        if keys.fits(name, value):
            yield Setting(name, value, COMMAND_LINE)
        else:
            yield Diagnostic(COMMAND_LINE, f"{name} = {keys.format_value(value)}: expected {keys.expected(name)}", name)
    else:
        yield from _read(text, name, lambda _: COMMAND_LINE)


def _unquoted(text: str) -> str:
    """Return the value of a text that is one quoted YAML scalar from its first to its last character, else the text."""
    if text[:1] not in ("'", '"'):
        return text
    try:
        node = _Loader(text).get_single_node()
    except yaml.YAMLError:
        return text
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.end_mark.index == len(text) else text


def _read(text: str, key: str, origin_at: Callable[[int], str]) -> Iterator[Setting | Diagnostic]:
    """Parse YAML text as the value of a key; the empty key is the root."""
    prefix = f"{key} = {keys.format_value(text)}: " if key else ""
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if getattr(event, "anchor", None) or getattr(event, "tag", None):
                line = event.start_mark.line if event.start_mark else 0
                yield Diagnostic(
                    origin_at(line), f"{prefix}found a YAML anchor, alias or tag, expected plain values", key
                )
                return
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        yield Diagnostic(origin_at(mark.line if mark else 0), f"{prefix}not YAML: {reason}", key)
        return
    if node is None and not key:
        return  # an empty file, or only comments
    rest = text[node.end_mark.index if node else 0 :].strip() if key else ""
    if rest:
        yield Diagnostic(origin_at(0), f"{prefix}found {keys.format_value(rest)} after the value; remove it", key)
        return
    yield from _DocumentParser(loader, origin_at).parse(node or yaml.ScalarNode(NULL, ""), key, origin_at(0))


@dataclass(frozen=True)
class _DocumentParser:
    """Parses the nodes of one YAML document, recursively, into settings and diagnostics."""

    loader: _Loader
    origin_at: Callable[[int], str]
    lines: dict[str, int] = field(default_factory=dict)  # of the keys parsed so far, counted from 0

    def parse(self, node: yaml.Node, key: str, origin: str) -> Iterator[Setting | Diagnostic]:
        if not keys.is_section(key):
            yield self._setting(node, key, origin)
        elif isinstance(node, yaml.MappingNode):
            if keys.layer_key(key):
                yield Setting(key, {}, origin)
            for name, child in node.value:
                yield from self._entry(name, child, key)
        elif node.tag == NULL and keys.layer_key(key):
            yield Setting(key, None, origin)
        else:
            value = keys.format_value(self._value(node))
            prefix = f"{key} = {value}: " if key else f"found {value}, "
            examples = ", ".join(keys.children(key)[:3])
            yield Diagnostic(origin, f"{prefix}expected a mapping with keys such as {examples}", key)

    def _entry(self, name: yaml.Node, child: yaml.Node, parent: str) -> Iterator[Setting | Diagnostic]:
        line = name.start_mark.line if name.start_mark else 0
        origin = self.origin_at(line)
        if not isinstance(name, yaml.ScalarNode):
            yield Diagnostic(
                origin, f"{parent}: found a list or mapping as a key, expected a name".lstrip(": "), parent
            )
            return
        key = f"{parent}.{name.value}" if parent else str(name.value)
        if key in self.lines:
            yield Diagnostic(origin, f"{key}: given twice, first on line {self.lines[key] + 1}; keep one of them", key)
            return
        self.lines[key] = line
        yield from self.parse(child, key, origin)

    def _setting(self, node: yaml.Node, key: str, origin: str) -> Setting | Diagnostic:
        value = self._value(node)
        assignment = f"{key} = {keys.format_value(value)}"
        if keys.key_spec(key) is None:
            return Diagnostic(origin, f"{assignment}: unknown key; {keys.suggestion(key)}", key)
        if not keys.fits(key, value):
            return Diagnostic(origin, f"{assignment}: expected {keys.expected(key)}", key)
        return Setting(key, value, origin)

    def _value(self, node: yaml.Node) -> object:
        if isinstance(node, yaml.SequenceNode):
            return tuple(self._value(item) for item in node.value)
        if isinstance(node, yaml.MappingNode):
            return {str(name.value): self._value(item) for name, item in node.value}
        try:
            value: object = self.loader.construct_object(node)
        except ValueError:  # a number with more digits than Python parses; its text fits no key either
            value = node.value
        return value
