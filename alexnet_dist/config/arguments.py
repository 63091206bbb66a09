"""The command-line arguments for a configuration; pydantic is imported after they are parsed, so --help is quick."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.config import named
from alexnet_dist.data.choices import BEST

if TYPE_CHECKING:
    from alexnet_dist.config.loading import LoadedConfig

PORT, LAST_PORT = 8000, 65535  # of a local page


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the repeatable option --config FILE and key=value arguments to a command.

    Parse with parse_intermixed_args, which accepts options and arguments in any order.
    """
    parser.add_argument(
        "--config",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="YAML file of changes to the paper's configuration, or the name of one that the package contains"
        f" ({', '.join(named.names())}); several are merged left to right",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="change of one value, such as data.global_batch=64; applied after all files",
    )


def from_arguments(arguments: argparse.Namespace) -> LoadedConfig:
    """Return the configuration that a parsed command line specifies. Raises UserError as `load` does."""
    from alexnet_dist.config.loading import load

    return load(arguments.config, arguments.overrides)


def add_step_argument(parser: argparse.ArgumentParser) -> None:
    """Add --step, the checkpoint of a run to take: a number, `best`, or None for the newest that verifies."""

    def parse(text: str) -> int | str:
        if text != BEST and not (text.isascii() and text.isdigit()):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected the step of a checkpoint, or {BEST}")
        return text if text == BEST else int(text)

    parser.add_argument(
        "--step",
        type=parse,
        metavar=f"STEP|{BEST}",
        help=f"checkpoint to take; {BEST}: with the lowest validation error; default: the newest that verifies",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add --device, the name of where a finished net computes, or None for cuda if there is one."""
    parser.add_argument("--device", help="where to compute, such as cpu or cuda:1; default: cuda if there is one")


def add_port_argument(parser: argparse.ArgumentParser) -> None:
    """Add --port, that of a local page, or None for the usual one."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= LAST_PORT):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from 0 to {LAST_PORT}")
        return int(text)

    parser.add_argument("--port", type=parse, help=f"of the page; 0: any free one (default: {PORT})")


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """Return what parses a number above 0 for argparse."""

    def parse(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = 0
        if not 0 < number < float("inf"):
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {noun} above 0")
        return number

    return parse
