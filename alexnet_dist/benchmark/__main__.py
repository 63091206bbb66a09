"""The command ``python -m alexnet_dist.benchmark SUITE``: ours beside others, with ratios."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from alexnet_dist.benchmark import options
from alexnet_dist.benchmark.rounds import others_cpu_cores, table
from alexnet_dist.errors import run_command
from alexnet_dist.system import resources

if TYPE_CHECKING:
    from alexnet_dist.benchmark.reports import SuiteReport


def main(argv: list[str]) -> None:
    """Run a benchmark, and print a table or one JSON object."""
    arguments = options.parser(__doc__).parse_args(argv)
    options.check(arguments)
    from alexnet_dist.benchmark.reports import run_benchmark  # imports torch: --help does without it

    report = run_benchmark(arguments)
    if arguments.json:
        _print_json(arguments, report)
    else:
        _print_table(arguments, report)


def _print_json(arguments: argparse.Namespace, report: SuiteReport) -> None:
    fields = {
        "benchmark": arguments.benchmark,
        "rounds": arguments.rounds,
        "cores": resources.cores(),
        "others_cpu_cores": round(others_cpu_cores(report.results), 2),
        "rows": [result.summary() for result in report.results],
        "ratios": report.ratios,
        **report.extra,
    }
    print(json.dumps(fields))


def _print_table(arguments: argparse.Namespace, report: SuiteReport) -> None:
    others = others_cpu_cores(report.results)
    print(f"medians of {arguments.rounds} rounds on {resources.cores()} cores; others used up to {others:.2f} cores\n")
    print(table(report.results, report.columns))
    print("\nratios (medians of the rounds' ratios):")
    for name, value in report.ratios.items():
        print(f"  {name.ljust(max(map(len, report.ratios)))}  {value:.2f}")
    if report.notes:
        print(f"\n{report.notes}")


if __name__ == "__main__":
    sys.exit(run_command(main))
