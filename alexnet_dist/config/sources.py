"""Where values come from: YAML files, with line numbers, and key=value words of the command line.

A source is read into what it gives and what is wrong with it, item by item, so that all problems of all sources can
be reported at once. YAML is read as version 1.2 reads plain scalars (1e-2 is a number, 010 and no are text), because
PyYAML's version 1.1 surprises; anchors, aliases and tags are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from alexnet_dist.config import keys

COMMAND_LINE = "command line"
NULL = "tag:yaml.org,2002:null"
FLOAT_TAG = "tag:yaml.org,2002:float"
# YAML 1.2.2, section 10.3.2, without the octal and hexadecimal integers.
FLOAT = re.compile(
    r"([-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
)


@dataclass(frozen=True)
class Given:
    """A value that a source gives to a key; for a layer's row itself None (removed) or {} (present)."""

    key: str
    value: object
    origin: str


@dataclass(frozen=True)
class Problem:
    """What is wrong at a place of a source."""

    origin: str
    text: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the plain scalars of YAML 1.2."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's name and shape; None: whatever the first letter
        None: [
            (NULL, re.compile(r"(~|null|Null|NULL|)\Z")),
            ("tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z")),
            ("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")),
            (FLOAT_TAG, FLOAT),
        ]
    }


def read_file(path: Path) -> Iterator[Given | Problem]:
    """Yield what a YAML file gives, and what is wrong with it; origins are like configs/x.yaml:7."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        yield Problem(str(path), f"expected a YAML file, but it cannot be read: {reason}")
        return
    yield from _read(text, "", lambda line: f"{path}:{line + 1}")


def read_override(word: str) -> Iterator[Given | Problem]:
    """Yield what one key=value word of the command line gives, its value as YAML, and what is wrong with it."""
    key, equals, text = word.partition("=")
    if equals and key.strip():
        yield from _read(text, key.strip(), lambda _: COMMAND_LINE)
    else:
        text = f"found {word!r}, expected key=value, such as data.global_batch=64; a file is given by --config FILE"
        yield Problem(COMMAND_LINE, text)


def _read(text: str, key: str, origin_at: Callable[[int], str]) -> Iterator[Given | Problem]:
    """Read YAML text into the key it is for; the empty key is above all."""
    start = f"{key} = {keys.show(text)}: " if key else ""
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if getattr(event, "anchor", None) or getattr(event, "tag", None):
                line = event.start_mark.line if event.start_mark else 0
                yield Problem(origin_at(line), f"{start}found a YAML anchor, alias or tag, expected plain values", key)
                return
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        yield Problem(origin_at(mark.line if mark else 0), f"{start}not YAML: {reason}", key)
        return
    if node is None and not key:
        return  # an empty file, or one of comments alone
    yield from _Walk(loader, origin_at).visit(node or yaml.ScalarNode(NULL, ""), key, origin_at(0))


@dataclass(frozen=True)
class _Walk:
    """One walk through a document: down the sections, to what each key is given."""

    loader: _Loader
    origin_at: Callable[[int], str]
    lines: dict[str, int] = field(default_factory=dict)  # of the keys met so far, counted from 0

    def visit(self, node: yaml.Node, key: str, origin: str) -> Iterator[Given | Problem]:
        if not keys.is_section(key):
            yield self._leaf(node, key, origin)
        elif isinstance(node, yaml.MappingNode):
            if keys.row_of(key):
                yield Given(key, {}, origin)
            for name, child in node.value:
                yield from self._entry(name, child, key)
        elif node.tag == NULL and keys.row_of(key):
            yield Given(key, None, origin)
        else:
            shown = keys.show(self._value(node))
            found = f"{key} = {shown}: " if key else f"found {shown}, "
            some = ", ".join(keys.children(key)[:3])
            yield Problem(origin, f"{found}expected a mapping with keys such as {some}", key)

    def _entry(self, name: yaml.Node, child: yaml.Node, above: str) -> Iterator[Given | Problem]:
        line = name.start_mark.line if name.start_mark else 0
        origin = self.origin_at(line)
        if not isinstance(name, yaml.ScalarNode):
            yield Problem(origin, f"{above}: found a list or mapping as a key, expected a name".lstrip(": "), above)
            return
        key = f"{above}.{name.value}" if above else str(name.value)
        if key in self.lines:
            yield Problem(origin, f"{key}: given twice, first on line {self.lines[key] + 1}; keep one of them", key)
            return
        self.lines[key] = line
        yield from self.visit(child, key, origin)

    def _leaf(self, node: yaml.Node, key: str, origin: str) -> Given | Problem:
        value = self._value(node)
        found = f"{key} = {keys.show(value)}"
        if keys.leaf(key) is None:
            return Problem(origin, f"{found}: unknown key; {keys.hint(key)}", key)
        if not keys.fits(key, value):
            return Problem(origin, f"{found}: expected {keys.expected(key)}", key)
        return Given(key, value, origin)

    def _value(self, node: yaml.Node) -> object:
        if isinstance(node, yaml.SequenceNode):
            return tuple(self._value(item) for item in node.value)
        if isinstance(node, yaml.MappingNode):
            return {str(name.value): self._value(item) for name, item in node.value}
        try:
            value: object = self.loader.construct_object(node)
        except ValueError:  # a number of more digits than Python reads: no key holds it, nor its text
            value = node.value
        return value
