"""The command ``python -m alexnet_dist.benchmark pack|loader|step|link|scaling``: ours beside others, with ratios."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from alexnet_dist.benchmark import synthetic
from alexnet_dist.benchmark.contenders import packing
from alexnet_dist.benchmark.contenders.training_steps import Job
from alexnet_dist.benchmark.rounds import LEAST_ROUNDS, Row, others_cpu_cores, run_rounds, table
from alexnet_dist.benchmark.suites import link as linking
from alexnet_dist.benchmark.suites import loader as loading
from alexnet_dist.benchmark.suites import scaling
from alexnet_dist.benchmark.suites import step as stepping
from alexnet_dist.errors import UserError, run_command

LEAST = {"batch": 2, "steps": 1, "threads": 1, "repeats": 1, "pair_batch": 2}
POSITIVE = ("step_ms", "network_gbit", "link_gbytes", "peak_tflops")


@dataclass(frozen=True)
class Found:
    """What a benchmark has to tell.

    columns: title by figure. more: further objects of the JSON; said: the same as text.
    """

    rows: Sequence[Row]
    columns: Mapping[str, str]
    ratios: Mapping[str, float]
    more: Mapping[str, object] = field(default_factory=dict)
    said: str = ""


def main(arguments: list[str]) -> None:
    """Measure, and print a table or one JSON object."""
    given = _parser().parse_args(arguments)
    _check(given)
    runs = {"pack": _pack, "loader": _loader, "step": _step, "link": _link, "scaling": _scaling}
    with tempfile.TemporaryDirectory(prefix="alexnet-benchmark-") as place:
        found = runs[given.benchmark](given, Path(place))
    others, cores = others_cpu_cores(found.rows), len(os.sched_getaffinity(0))
    if given.json:
        told = {
            "benchmark": given.benchmark,
            "rounds": given.rounds,
            "cores": cores,
            "others_cpu_cores": round(others, 2),
            "rows": [row.summary() for row in found.rows],
            "ratios": found.ratios,
            **found.more,
        }
        print(json.dumps(told))
        return
    print(f"medians of {given.rounds} rounds on {cores} cores; others took up to {others:.2f} cores\n")
    print(table(found.rows, found.columns))
    print("\nthe medians of the rounds' ratios:")
    for name, value in found.ratios.items():
        print(f"  {name.ljust(max(map(len, found.ratios)))}  {value:.2f}")
    if found.said:
        print(f"\n{found.said}")


def _check(given: argparse.Namespace) -> None:
    """Raise UserError for a number that nothing can be measured with."""
    if given.rounds < LEAST_ROUNDS:
        raise UserError(f"--rounds: {given.rounds}; expected at least {LEAST_ROUNDS}: a median of fewer says little")
    if given.benchmark in ("pack", "loader"):
        return
    for name, least in LEAST.items():
        if getattr(given, name, least) < least:
            raise UserError(f"--{name.replace('_', '-')}: {getattr(given, name)}; expected at least {least}")
    for name in POSITIVE:
        if (value := getattr(given, name, None)) is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')}: {value:g}; expected more than 0")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.benchmark", description=__doc__)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    pack = benchmarks.add_parser("pack", help="folders of photographs to shards")
    pack.add_argument("--source", type=Path, metavar="DIR", help="class folders (default: drawn, photo-like)")
    pack.add_argument("--images", type=int, default=1000, metavar="N", help="to draw (default: 1000)")
    loader = benchmarks.add_parser("loader", help="shards to batches")
    loader.add_argument("--shards", type=Path, metavar="DIR", help="a packed set (default: drawn and packed)")
    loader.add_argument("--images", type=int, default=4000, metavar="N", help="to draw (default: 4000)")
    loader.add_argument("--workers", type=int, default=2, metavar="N")
    loader.add_argument("--batch", type=int, default=128, metavar="N")
    for one in (pack, loader, *_of_training(benchmarks)):
        one.add_argument("--rounds", type=int, default=LEAST_ROUNDS, metavar="N", help=f"at least {LEAST_ROUNDS}")
        one.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser


def _of_training(benchmarks: argparse._SubParsersAction[argparse.ArgumentParser]) -> list[argparse.ArgumentParser]:
    cores = len(os.sched_getaffinity(0))
    step = benchmarks.add_parser("step", help="one training step, beside plain torch")
    step.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    step.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="with cuda (default: bfloat16)"
    )
    step.add_argument("--peak-tflops", type=float, metavar="X", help="of the cuda device, to tell what share is used")
    link = benchmarks.add_parser("link", help="what crosses between the towers, beside torch's own calls")
    link.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    link.add_argument("--repeats", type=int, default=30, metavar="N", help="of each exchange, a round (default: 30)")
    many = benchmarks.add_parser("scaling", help="1, 2 and 4 ranks here, and bounds for many nodes")
    many.add_argument(
        "--pair-batch", type=int, default=128, metavar="N", help="assumed: a pair's images (default: 128)"
    )
    many.add_argument(
        "--step-ms", type=float, default=10, metavar="X", help="assumed: a pair's computing (default: 10)"
    )
    many.add_argument("--network-gbit", type=float, default=100, metavar="X", help="assumed: a node's (default: 100)")
    many.add_argument("--link-gbytes", type=float, default=50, metavar="X", help="assumed: two devices' (default: 50)")
    for one in (step, link, many):
        one.add_argument("--batch", type=int, default=32, metavar="N", help="images of a replica (default: 32)")
        one.add_argument("--threads", type=int, default=cores, metavar="N", help="of all ranks (default: all cores)")
    for one in (step, many):
        one.add_argument("--steps", type=int, default=4, metavar="N", help="timed steps a round (default: 4)")
    return [step, link, many]


def _pack(given: argparse.Namespace, place: Path) -> Found:
    source = given.source
    if source is None:
        source = place / "photographs"
        synthetic.write(source, given.images, synthetic.FULL_SIDES, synthetic.FULL_CONTRAST)
    rows = run_rounds(packing.entries(source), given.rounds)
    return Found(rows, packing.COLUMNS, packing.ratios(rows))


def _loader(given: argparse.Namespace, place: Path) -> Found:
    shards = given.shards
    if shards is None:
        shards = place / "shards"
        synthetic.write(place / "photographs", given.images, synthetic.PACKED_SIDES, synthetic.PACKED_CONTRAST)
        packing.pack(place / "photographs", shards, len(os.sched_getaffinity(0)), samples_per_shard=1000)
    entries = loading.entries(shards, place / "others", given.workers, given.batch)
    rows = run_rounds(entries, given.rounds)
    return Found(rows, loading.COLUMNS, loading.ratios(rows))


def _step(given: argparse.Namespace, _place: Path) -> Found:
    job = Job(given.batch, given.steps, given.threads)
    if given.device == "cpu":
        rows = run_rounds(stepping.entries(job), given.rounds)
        return Found(rows, stepping.COLUMNS, stepping.ratios(rows))
    # On a device with tensor cores bfloat16 is fastest where a pixel's channels lie together.
    last = given.dtype == "bfloat16"
    job = replace(job, device="cuda", dtype=given.dtype, channels_last=last, peak_tflops=given.peak_tflops or 0.0)
    rows = run_rounds(stepping.cuda_entries(job), given.rounds)
    return Found(rows, stepping.COLUMNS_CUDA, stepping.ratios(rows))


def _link(given: argparse.Namespace, _place: Path) -> Found:
    contenders = linking.entries(given.batch, given.repeats, max(1, given.threads // 2), given.device)
    rows = run_rounds(contenders, given.rounds)
    return Found(linking.by_join(rows, given.batch), linking.COLUMNS, linking.ratios(rows))


def _scaling(given: argparse.Namespace, _place: Path) -> Found:
    job = Job(given.batch, given.steps, given.threads)
    rows = run_rounds(scaling.entries(job), given.rounds)
    measured = scaling.here(rows, job)
    assumed = scaling.cluster(given.step_ms, given.pair_batch, given.network_gbit, given.link_gbytes)
    more = {"bounds_here": measured, "assumed": asdict(assumed), "bounds_of_nodes": scaling.nodes(assumed)}
    return Found(rows, scaling.COLUMNS, scaling.ratios(rows), more, scaling.said(measured, assumed))


if __name__ == "__main__":
    sys.exit(run_command(main))
