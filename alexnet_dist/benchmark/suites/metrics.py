"""The benchmark ``metrics``: what a rank's metrics cost it, beside its steps and beside a busy loop."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_dist.benchmark.rounds import Contender, Result, ratio

DEMO, PAPER, SCRAPE = "demo net", "paper's net", "scrape"
COLUMNS = {
    "calls_us": "calls us",
    "step_ms": "step ms",
    "share_percent": "share %",
    "scrape_ms": "scrape ms",
    "busy_scrape_ms": "busy ms",
    "page_ms": "page ms",
    "cpu_ms": "CPU ms",
    "pause_ms": "pause ms",
    "quiet_pause_ms": "quiet ms",
}
SCRAPES = 4
NOTES = (
    "calls us: of the metrics in a step, counting included; scrape ms: over HTTP, of a rank that waits;\n"
    "busy ms: of one in a busy loop of Python, whose longest pause is pause ms, without scrapes quiet ms"
)


def contenders(batch: int, steps: int, threads: int) -> list[Contender]:
    """Return the nets whose steps are measured, and the scrape."""
    nets = [
        Contender(name, "metrics_calls", {"config": config, "batch": batch, "steps": steps, "threads": threads})
        for name, config in ((DEMO, "demo"), (PAPER, "paper"))
    ]
    return [*nets, Contender(SCRAPE, "metrics_scrape", {"scrapes": SCRAPES, "threads": threads})]


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """Return how many times as long as its metrics' calls a step takes, and how much longer a busy rank's scrape."""
    values: dict[str, float] = {}
    for result in results:
        if result.name != SCRAPE and (share := result.median("share_percent")):
            values[f"step_vs_calls_{'demo' if result.name == DEMO else 'paper'}"] = 100 / share
        elif (slower := ratio([_busy(result), result], "busy", SCRAPE, "scrape_ms")) is not None:
            values["busy_scrape_vs_scrape"] = slower
    return values


def _busy(result: Result) -> Result:
    rounds = tuple({"scrape_ms": figures["busy_scrape_ms"]} for figures in result.rounds if "busy_scrape_ms" in figures)
    return Result("busy", rounds)
