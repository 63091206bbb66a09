"""The options of the benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path

from alexnet_dist.benchmark.rounds import MIN_ROUNDS
from alexnet_dist.errors import UserError
from alexnet_dist.system import resources

MINIMUMS = {"batch": 2, "steps": 1, "threads": 1, "repeats": 1, "pair_batch": 2}
POSITIVE = ("step_ms", "network_gbit", "link_gbytes", "peak_tflops")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    benchmark = argparse.ArgumentParser(prog="python -m alexnet_dist.benchmark", description=description)
    suites = benchmark.add_subparsers(dest="benchmark", required=True)
    pack_parser = suites.add_parser("pack", help="folders of photographs to shards")
    pack_parser.add_argument(
        "--source", type=Path, metavar="DIR", help="class folders (default: generated photo-like images)"
    )
    pack_parser.add_argument("--images", type=int, default=1000, metavar="N", help="images to generate (default: 1000)")
    loader_parser = suites.add_parser("loader", help="shards to batches")
    loader_parser.add_argument(
        "--shards", type=Path, metavar="DIR", help="a packed set (default: generated and packed)"
    )
    loader_parser.add_argument(
        "--images", type=int, default=4000, metavar="N", help="images to generate (default: 4000)"
    )
    loader_parser.add_argument("--workers", type=int, default=2, metavar="N")
    loader_parser.add_argument("--batch", type=int, default=128, metavar="N")
    checkpoint_parser = suites.add_parser("checkpoint", help="a save of the paper's net, beside a copy in memory")
    checkpoint_parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where to write 1 GB (default: the folder for temporary files)"
    )
    checkpoint_parser.add_argument("--repeats", type=int, default=4, metavar="N", help="saves in a round (default: 4)")
    _add_threads(checkpoint_parser)
    for suite in (pack_parser, loader_parser, checkpoint_parser, *_add_training_suites(suites)):
        suite.add_argument("--rounds", type=int, default=MIN_ROUNDS, metavar="N", help=f"at least {MIN_ROUNDS}")
        suite.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return benchmark


def _add_training_suites(
    suites: argparse._SubParsersAction[argparse.ArgumentParser],
) -> list[argparse.ArgumentParser]:
    step_parser = suites.add_parser("step", help="one training step, beside plain torch")
    step_parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    step_parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="with --device cuda (default: bfloat16)"
    )
    step_parser.add_argument(
        "--peak-tflops", type=float, metavar="X", help="of the CUDA device, to report the share used"
    )
    link_parser = suites.add_parser("link", help="the exchanges between the towers, beside torch's own calls")
    link_parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    link_parser.add_argument(
        "--repeats", type=int, default=30, metavar="N", help="of each exchange in a round (default: 30)"
    )
    scaling_parser = suites.add_parser("scaling", help="1, 2 and 4 ranks here, and bounds for many nodes")
    for option, convert, default, assumption in (
        ("--pair-batch", int, 128, "images of a pair"),
        ("--step-ms", float, 10, "compute time of a pair's step"),
        ("--network-gbit", float, 100, "network of a node, Gbit/s"),
        ("--link-gbytes", float, 50, "link between two devices, GB/s"),
    ):
        metavar, text = "N" if convert is int else "X", f"assumed {assumption} (default: {default})"
        scaling_parser.add_argument(option, type=convert, default=default, metavar=metavar, help=text)
    for suite in (step_parser, link_parser, scaling_parser):
        suite.add_argument("--batch", type=int, default=32, metavar="N", help="images of a replica (default: 32)")
        _add_threads(suite)
    for suite in (step_parser, scaling_parser):
        suite.add_argument("--steps", type=int, default=4, metavar="N", help="timed steps in a round (default: 4)")
    return [step_parser, link_parser, scaling_parser]


def _add_threads(suite: argparse.ArgumentParser) -> None:
    suite.add_argument(
        "--threads", type=int, default=resources.cores(), metavar="N", help="of all ranks together (default: all cores)"
    )


def check(arguments: argparse.Namespace) -> None:
    """Raise UserError for an option with which nothing can be measured."""
    if arguments.rounds < MIN_ROUNDS:
        raise UserError(
            f"--rounds: {arguments.rounds}; expected at least {MIN_ROUNDS}: the median of fewer is not reliable"
        )
    if arguments.benchmark in ("pack", "loader"):
        return
    for name, minimum in MINIMUMS.items():
        if getattr(arguments, name, minimum) < minimum:
            raise UserError(f"--{name.replace('_', '-')}: {getattr(arguments, name)}; expected at least {minimum}")
    for name in POSITIVE:
        if (value := getattr(arguments, name, None)) is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')}: {value:g}; expected more than 0")
