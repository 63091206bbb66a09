"""torch.profiler on some steps of a run: a trace and a summary for each rank.

The code that does the work names the regions: stages, posts and waits of each join, input, averaging, optimizer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule

from alexnet_dist.errors import UserError

# Steps before the profiled ones: the first two allocate, compile and choose algorithms; in the third the profiler
# itself warms up.
SKIPPED_STEPS, WARM_UP_STEPS = 2, 1
TOP_ITEMS = 40


def check_room(steps: int, remaining: int) -> None:
    """Raise UserError if fewer steps remain than a profile of `steps` steps needs."""
    before = SKIPPED_STEPS + WARM_UP_STEPS
    if steps and remaining < before + steps:
        raise UserError(
            f"--profile: {steps} steps after the first {before}, but only {remaining} remain; raise run.steps, or"
            " profile fewer"
        )


@contextmanager
def profiled(steps: int, directory: Path, rank: int, device: str) -> Iterator[Callable[[], None]]:
    """Profile `steps` steps after the first three; yield a function to call after each step.

    Writes directory/rank-N.json, a trace for chrome://tracing or ui.perfetto.dev, and the summary rank-N.txt, on this
    rank's node; prints a warning if it cannot. With 0 steps nothing is profiled and the function does nothing. device:
    "cpu" or "cuda".
    """
    if not steps:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")

    def write(finished: profile) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            finished.export_chrome_trace(str(directory / f"rank-{rank}.json"))
            (directory / f"rank-{rank}.txt").write_text(summary(finished, steps, device))
        except OSError as error:
            text = f"warning: rank {rank}: {directory} not written: {error.strerror}"
            print(text, file=sys.stderr, flush=True)

    phases = schedule(wait=SKIPPED_STEPS, warmup=WARM_UP_STEPS, active=steps, repeat=1)
    with profile(activities=activities, schedule=phases, on_trace_ready=write, acc_events=True) as running:
        yield running.step


def summary(finished: profile, steps: int, device: str) -> str:
    """Return a table of the operators that took longest over all profiled steps, sorted by self time on the device."""
    order = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    table = finished.key_averages().table(sort_by=order, row_limit=TOP_ITEMS, max_name_column_width=60)
    regions = "stage ..., post: ..., wait: ..., input, averaging, optimizer"
    return f"{steps} steps; self: time in an operator without its callees; named regions: {regions}\n{table}\n"
