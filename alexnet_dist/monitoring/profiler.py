"""A torch profiler's look at some steps of a run: a trace and a summary for each rank.

The regions are named where the work is done: stages, posts and waits of each join, input, averaging, optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule

from alexnet_dist.errors import UserError

# Steps before those that are looked at: the first ones allocate, compile and choose algorithms; the profiler itself
# takes one to warm up.
SETTLING_STEPS, WARM_UP_STEPS = 2, 1
TOP_ITEMS = 40


def check_room(steps: int, coming: int) -> None:
    """Raise UserError where a start has fewer steps before it than a profile of `steps` steps takes."""
    before = SETTLING_STEPS + WARM_UP_STEPS
    if steps and coming < before + steps:
        raise UserError(
            f"--profile: {steps} steps after the first {before}, but only {coming} are to come; raise run.steps, or"
            " profile fewer"
        )


@contextmanager
def profiled(steps: int, directory: Path, rank: int, device: str) -> Iterator[Callable[[], None]]:
    """Profile `steps` steps, after three, into directory/rank-N.json and rank-N.txt; give what to call after each step.

    The trace is for chrome://tracing or ui.perfetto.dev. With 0 steps nothing is profiled, and the call does nothing.
    device: "cpu" or "cuda".
    """
    if not steps:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")

    def write(found: profile) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(directory / f"rank-{rank}.json"))
        (directory / f"rank-{rank}.txt").write_text(summary(found, steps, device))

    plan = schedule(wait=SETTLING_STEPS, warmup=WARM_UP_STEPS, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write, acc_events=True) as running:
        yield running.step


def summary(found: profile, steps: int, device: str) -> str:
    """Return the items that took longest, by the device's own time, over all profiled steps."""
    order = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    table = found.key_averages().table(sort_by=order, row_limit=TOP_ITEMS, max_name_column_width=60)
    regions = "stage ..., post: ..., wait: ..., input, averaging, optimizer"
    return f"{steps} steps; self is what an item took without what it calls; named regions: {regions}\n{table}\n"
