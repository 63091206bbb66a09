"""From files and key=value words to one checked configuration, or to one report of everything that is wrong."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from alexnet_dist.config import keys
from alexnet_dist.config.schema import CONTRADICTION, Config, Contradiction
from alexnet_dist.config.sources import Given, Problem, read_file, read_override
from alexnet_dist.errors import UserError
from alexnet_dist.nn.geometry import PAPER_LAYERS

DEFAULT = "default"


@dataclass(frozen=True)
class Resolved:
    """A configuration, and by dotted key where each value came from: default, configs/x.yaml:7 or command line.

    A layer of the paper's net that was removed stands in origins under its row's key, such as model.layers.conv4.
    """

    config: Config
    origins: Mapping[str, str]


def load(files: Sequence[Path], overrides: Sequence[str]) -> Resolved:
    """Return the paper's configuration changed by YAML files, left to right, then by key=value words.

    A mapping changes the keys it names; the row of a layer lies over the paper's row of that name, and null removes
    the layer until a later source names it again. Raises UserError with every problem of every source, a line each.
    """
    read = [item for path in files for item in read_file(path)]
    read += [item for word in overrides for item in read_override(word)]
    given = [item for item in read if isinstance(item, Given)]
    problems = [item for item in read if isinstance(item, Problem)]
    problems += _removed_in_vain(given)
    values = _merged(given)
    try:
        config = Config.model_validate(keys.tree({key: item.value for key, item in values.items()}))
    except ValidationError as error:
        problems += _contradictions(error, given, problems)
    if problems:
        count = f"{len(problems)} problems in the configuration:\n" if len(problems) > 1 else ""
        raise UserError(count + "\n".join(str(problem) for problem in problems))
    origins = {key: values[key].origin if key in values else DEFAULT for key in keys.flat(config)}
    return Resolved(config, origins)


def _merged(given: Iterable[Given]) -> dict[str, Given]:
    merged: dict[str, Given] = {}
    for item in given:
        row = keys.row_of(item.key)
        if row is not None and item.value is None and item.key == row:
            merged = {key: kept for key, kept in merged.items() if keys.row_of(key) != row}
        elif row is not None and row in merged and merged[row].value is None:
            del merged[row]
        merged[item.key] = item
    return merged


def _removed_in_vain(given: Iterable[Given]) -> Iterator[Problem]:
    known = {f"{keys.LAYERS}.{name}" for name in PAPER_LAYERS}
    for item in given:
        row = keys.row_of(item.key)
        if row is not None and row not in known and item.value is None and item.key == row:
            yield Problem(item.origin, f"{row} = null: there is no such layer to remove", row)
        elif row is not None:
            known.add(row)


def _contradictions(error: ValidationError, given: Sequence[Given], problems: Sequence[Problem]) -> Iterator[Problem]:
    """Yield the contradictions between values, but none that a problem reported already may be the cause of."""
    troubled = {problem.key.partition(".")[0] for problem in problems}
    for details in error.errors():
        # Each value fits its key: keys.fits was asked, so that nothing but contradictions is left.
        assert details["type"] == CONTRADICTION, details
        for found in details["ctx"]["contradictions"]:
            if not troubled & {"", *(key.partition(".")[0] for key in found.keys)}:
                yield Problem(_origin(found, given), found.text, found.keys[0])


def _origin(found: Contradiction, given: Sequence[Given]) -> str:
    """Return where the first of the keys that was given at all was given last."""
    for key in found.keys:
        for item in reversed(given):
            if item.key == key or item.key.startswith(f"{key}."):
                return item.origin
    return DEFAULT


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --config FILE, as often as wanted, and key=value words to a command.

    Parse with parse_intermixed_args: then words and options may stand in any order.
    """
    parser.add_argument(
        "--config",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="YAML file of changes to the paper's configuration; several are merged left to right",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="change of one value, such as data.global_batch=64; comes after all files",
    )


def from_arguments(arguments: argparse.Namespace) -> Resolved:
    """Return the configuration that a parsed command line asks for. Raises UserError as load does."""
    return load(arguments.config, arguments.overrides)
