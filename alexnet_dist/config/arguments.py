"""The command-line arguments for a configuration; pydantic is imported after they are parsed, so --help is quick."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.config import named

if TYPE_CHECKING:
    from alexnet_dist.config.loading import LoadedConfig


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
