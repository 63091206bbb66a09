"""The command ``python -m alexnet_dist.benchmark pack|loader``: ours beside named alternatives, with the ratios."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from alexnet_dist.benchmark import loading, packing, synthetic
from alexnet_dist.benchmark.rounds import LEAST_ROUNDS, Row, others_cpu_cores, run_rounds, table
from alexnet_dist.errors import UserError, run_command


def main(arguments: list[str]) -> None:
    """Measure, and print a table or one JSON object."""
    given = _parser().parse_args(arguments)
    if given.rounds < LEAST_ROUNDS:
        raise UserError(f"--rounds: {given.rounds}; expected at least {LEAST_ROUNDS}: a median of fewer says little")
    with tempfile.TemporaryDirectory(prefix="alexnet-benchmark-") as place:
        run = _pack if given.benchmark == "pack" else _loader
        rows, columns, ratios = run(given, Path(place))
    others, cores = others_cpu_cores(rows), len(os.sched_getaffinity(0))
    if given.json:
        found = {
            "benchmark": given.benchmark,
            "rounds": given.rounds,
            "cores": cores,
            "others_cpu_cores": round(others, 2),
            "rows": [row.summary() for row in rows],
            "ratios": ratios,
        }
        print(json.dumps(found))
        return
    print(f"medians of {given.rounds} rounds on {cores} cores; others took up to {others:.2f} cores\n")
    print(table(rows, columns))
    print("\nours in images/s over theirs, the median of the rounds' ratios:")
    for name, value in ratios.items():
        print(f"  {name.ljust(max(map(len, ratios)))}  {value:.2f}")


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
    for one in (pack, loader):
        one.add_argument("--rounds", type=int, default=LEAST_ROUNDS, metavar="N", help=f"at least {LEAST_ROUNDS}")
        one.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser


def _pack(given: argparse.Namespace, place: Path) -> tuple[list[Row], Mapping[str, str], dict[str, float]]:
    source = given.source
    if source is None:
        source = place / "photographs"
        synthetic.write(source, given.images, synthetic.FULL_SIDES, synthetic.FULL_CONTRAST)
    rows = run_rounds(packing.entries(source), given.rounds)
    return rows, packing.COLUMNS, packing.ratios(rows)


def _loader(given: argparse.Namespace, place: Path) -> tuple[list[Row], Mapping[str, str], dict[str, float]]:
    shards = given.shards
    if shards is None:
        shards = place / "shards"
        synthetic.write(place / "photographs", given.images, synthetic.PACKED_SIDES, synthetic.PACKED_CONTRAST)
        packing.pack(place / "photographs", shards, len(os.sched_getaffinity(0)), samples_per_shard=1000)
    entries = loading.entries(shards, place / "others", given.workers, given.batch)
    rows = run_rounds(entries, given.rounds)
    return rows, loading.COLUMNS, loading.ratios(rows)


if __name__ == "__main__":
    sys.exit(run_command(main))
