"""The options of the benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from alexnet_dist.benchmark.rounds import MIN_ROUNDS
from alexnet_dist.errors import UserError
from alexnet_dist.system import resources

MINIMUMS = {"batch": 2, "steps": 1, "threads": 1, "repeats": 1, "pair_batch": 2, "workers": 1}
MINIMUMS_OF_TRAIN = {"steps": 4, "images": 1}
POSITIVE = ("step_ms", "network_gbit", "link_gbytes", "peak_tflops")

Suites: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    benchmark = argparse.ArgumentParser(prog="python -m alexnet_dist.benchmark", description=description)
    suites = benchmark.add_subparsers(dest="benchmark", required=True)
    for add_suite in (
        _add_pack, _add_loader, _add_checkpoint, _add_metrics, _add_step, _add_train, _add_link, _add_scaling
    ):  # fmt: skip
        suite = add_suite(suites)
        suite.add_argument("--rounds", type=int, default=MIN_ROUNDS, metavar="N", help=f"at least {MIN_ROUNDS}")
        suite.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return benchmark


def _add_pack(suites: Suites) -> argparse.ArgumentParser:
    suite = suites.add_parser("pack", help="folders of photographs to shards")
    suite.add_argument(
        "--source", type=Path, metavar="DIR", help="class folders (default: generated photo-like images)"
    )
    suite.add_argument("--images", type=int, default=1000, metavar="N", help="images to generate (default: 1000)")
    return suite


def _add_loader(suites: Suites) -> argparse.ArgumentParser:
    suite = suites.add_parser("loader", help="shards to batches")
    _add_shards(suite)
    suite.add_argument("--batch", type=int, default=128, metavar="N")
    return suite


def _add_checkpoint(suites: Suites) -> argparse.ArgumentParser:
    suite = suites.add_parser("checkpoint", help="a save of the paper's net, beside a copy in memory")
    suite.add_argument(
        "--folder", type=Path, metavar="DIR", help="where to write 1 GB (default: the folder for temporary files)"
    )
    suite.add_argument("--repeats", type=int, default=4, metavar="N", help="saves in a round (default: 4)")
    _add_threads(suite)
    return suite


def _add_metrics(suites: Suites) -> argparse.ArgumentParser:
    suite = suites.add_parser("metrics", help="what the metrics cost a step, and a scrape")
    _add_batch(suite)
    _add_steps(suite)
    return suite


def _add_step(suites: Suites) -> argparse.ArgumentParser:
    suite = suites.add_parser("step", help="one training step on a batch in memory, beside plain torch")
    _add_device(suite)
    suite.add_argument(
        "--peak-tflops", type=float, metavar="X", help="of the CUDA device, if its data sheet's is not known"
    )
    _add_batch(suite)
    _add_steps(suite)
    return suite


def _add_train(suites: Suites) -> argparse.ArgumentParser:
    suite = suites.add_parser("train", help="a whole run, loader included, beside plain torch on WebDataset and Pillow")
    _add_shards(suite)
    _add_device(suite)
    _add_batch(suite)
    suite.add_argument(
        "--steps", type=int, metavar="N", help="timed steps in a round, at least 4 (default: 6, with cuda 50)"
    )
    return suite


def _add_link(suites: Suites) -> argparse.ArgumentParser:
    suite = suites.add_parser("link", help="the exchanges between the towers, beside torch's own calls")
    suite.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    suite.add_argument("--repeats", type=int, default=30, metavar="N", help="of each exchange in a round (default: 30)")
    _add_batch(suite)
    return suite


def _add_scaling(suites: Suites) -> argparse.ArgumentParser:
    suite = suites.add_parser("scaling", help="1, 2 and 4 ranks here, and bounds for many nodes")
    for option, convert, default, assumption in (
        ("--pair-batch", int, 128, "images of a pair"),
        ("--step-ms", float, 10, "compute time of a pair's step"),
        ("--network-gbit", float, 100, "network of a node, Gbit/s"),
        ("--link-gbytes", float, 50, "link between two devices, GB/s"),
    ):
        metavar, text = "N" if convert is int else "X", f"assumed {assumption} (default: {default})"
        suite.add_argument(option, type=convert, default=default, metavar=metavar, help=text)
    _add_batch(suite)
    _add_steps(suite)
    return suite


def _add_shards(suite: argparse.ArgumentParser) -> None:
    suite.add_argument("--shards", type=Path, metavar="DIR", help="a packed set (default: generated and packed)")
    suite.add_argument("--images", type=int, default=4000, metavar="N", help="images to generate (default: 4000)")
    suite.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes that decode, of each contender (default: 2)"
    )


def _add_device(suite: argparse.ArgumentParser) -> None:
    suite.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    suite.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="with --device cuda (default: bfloat16)"
    )


def _add_batch(suite: argparse.ArgumentParser) -> None:
    suite.add_argument("--batch", type=int, default=32, metavar="N", help="images of a replica (default: 32)")
    _add_threads(suite)


def _add_steps(suite: argparse.ArgumentParser) -> None:
    suite.add_argument("--steps", type=int, default=4, metavar="N", help="timed steps in a round (default: 4)")


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
    minimums = MINIMUMS | (MINIMUMS_OF_TRAIN if arguments.benchmark == "train" else {})
    for name, minimum in minimums.items():
        if (value := getattr(arguments, name, None)) is not None and value < minimum:
            raise UserError(f"--{name.replace('_', '-')}: {value}; expected at least {minimum}")
    for name in POSITIVE:
        if (value := getattr(arguments, name, None)) is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')}: {value:g}; expected more than 0")
