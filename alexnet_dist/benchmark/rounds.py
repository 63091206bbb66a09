"""Run every contender once a round, each in a fresh process, and take medians over the rounds.

Load from elsewhere comes and goes: with interleaved contenders it affects all of them, and each ratio is taken within
a round before the median over rounds. A fresh process starts with cold caches and leaves nothing behind.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from alexnet_dist.errors import RunError

Figures = Mapping[str, float]

MIN_ROUNDS = 5
# No contender takes this long; one that hangs must not block the benchmark.
RUN_TIMEOUT_S = 900
# A figure of the machine, not of the contender: reported once, over all contenders.
OTHERS = "others_cpu_cores"
SPREAD = "spread"  # the last column of the table
MIN_COLUMN_WIDTH = 7  # characters
ERROR_LINES = 15  # of a failed contender's output
# The line that names the exception, with a traceback or without one, which may go on below it.
EXCEPTION = re.compile(r"[\w.]*(Error|Exception): |error: ")


@dataclass(frozen=True)
class Contender:
    """A contender of a benchmark.

    name: its name in the table. task, settings: arguments of `alexnet_dist.benchmark.contenders`, which prints its
    figures as one JSON object. missing: why it cannot run here, or empty. is_peer: whether it is somebody else's code,
    whose failure does not end the benchmark.
    """

    name: str
    task: str
    settings: Mapping[str, object]
    missing: str = ""
    is_peer: bool = False


@dataclass(frozen=True)
class Result:
    """The figures of one line of the table, one object a round; rounds is empty if the contender is missing."""

    name: str
    rounds: tuple[Figures, ...]
    missing: str = ""

    def median(self, figure: str) -> float | None:
        """Return the median of a figure over the rounds; None if the contender does not report it."""
        values = self._values(figure)
        return median(values) if values else None

    def spread(self, figure: str) -> float | None:
        """Return (largest - smallest) / median over the rounds, a fraction; None if the median is not positive."""
        values = self._values(figure)
        return (max(values) - min(values)) / median(values) if values and median(values) > 0 else None

    def _values(self, figure: str) -> list[float]:
        return [figures[figure] for figures in self.rounds if figure in figures]

    def summary(self) -> dict[str, object]:
        """Return the JSON object of the result: its name, the median of each figure, the spread of the first one."""
        names = list(self.rounds[0]) if self.rounds else []
        fields: dict[str, object] = {"name": self.name}
        fields |= {name: self.median(name) for name in names if name != OTHERS}
        if names:
            fields["spread"] = self.spread(names[0])
        if self.missing:
            fields["missing"] = self.missing
        return fields


def run_rounds(contenders: Sequence[Contender], rounds: int) -> list[Result]:
    """Run all contenders `rounds` times in turn, and return their results in the same order.

    A peer that fails in any round is missing from then on, with its last exception as the reason. Raises
    RunError if one of ours fails.
    """
    figures: dict[str, list[Figures]] = {contender.name: [] for contender in contenders}
    missing = {contender.name: contender.missing for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            name = contender.name
            if missing[name]:
                continue
            print(f"round {number + 1}/{rounds}: {name}", file=sys.stderr, flush=True)
            try:
                figures[name].append(run_alone(contender))
            except RunError as error:
                if not contender.is_peer:
                    raise
                missing[name], figures[name] = f"fails here: {reason(error)}", []
    return [Result(contender.name, tuple(figures[contender.name]), missing[contender.name]) for contender in contenders]


def reason(error: RunError) -> str:
    """Return why a contender failed: the message of the last exception in its output, else the last line."""
    lines = str(error).splitlines()
    starts = [number for number, line in enumerate(lines) if EXCEPTION.match(line)]
    return " ".join(line.strip() for line in lines[starts[-1] if starts else -1 :]).removeprefix("error: ")


def run_alone(contender: Contender) -> Figures:
    """Run a contender in its own process and return its figures; raises RunError with its last lines if it fails."""
    began_s, busy_before_s, own_before_s = time.monotonic(), busy_s(), children_s()
    command = [sys.executable, "-m", "alexnet_dist.benchmark.contenders", contender.task]
    command.append(json.dumps(contender.settings))
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise RunError(f"{contender.name}: its process was killed after {RUN_TIMEOUT_S} s without a result") from None
    if done.returncode:
        last_lines = "\n".join((done.stderr or done.stdout).strip().splitlines()[-ERROR_LINES:])
        raise RunError(f"{contender.name}: its process ended with exit code {done.returncode}\n{last_lines}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    others_s = busy_s() - busy_before_s - (children_s() - own_before_s)
    return {**figures, OTHERS: max(0.0, others_s) / (time.monotonic() - began_s)}


def children_s() -> float:
    """Return the CPU seconds of all processes that this one has started and waited for, with their own children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def busy_s() -> float:
    """Return the seconds for which the machine's cores were not idle, summed, from /proc/stat; 0 without it."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, interrupt, soft = (int(ticks) for ticks in fields[1:8])
    return (user + nice + system + interrupt + soft) / 100


def ratio(results: Sequence[Result], ours: str, theirs: str, figure: str = "images_per_second") -> float | None:
    """Return the median over the rounds of our figure divided by theirs; None if either is missing."""
    rounds = {result.name: result.rounds for result in results}
    if not (rounds.get(ours) and rounds.get(theirs)):
        return None
    return median(a[figure] / b[figure] for a, b in zip(rounds[ours], rounds[theirs], strict=True))


def others_cpu_cores(results: Sequence[Result]) -> float:
    """Return the largest number of cores that other processes used while a contender ran."""
    return max((figures[OTHERS] for result in results for figures in result.rounds if OTHERS in figures), default=0.0)


def table(results: Sequence[Result], columns: Mapping[str, str]) -> str:
    """Return the results as aligned text; columns: title by figure."""
    name_width = max(len(result.name) for result in results)
    widths = [max(len(title), MIN_COLUMN_WIDTH) + 2 for title in (*columns.values(), SPREAD)]
    lines = [_line("".ljust(name_width), (*columns.values(), SPREAD), widths)]
    for result in results:
        name = result.name.ljust(name_width)
        if result.missing:
            lines.append(f"{name}  {result.missing}")
            continue
        spread = result.spread(next(iter(result.rounds[0])))
        cells = [_number(result.median(figure)) for figure in columns]
        lines.append(_line(name, [*cells, "-" if spread is None else f"{spread:.0%}"], widths))
    return "\n".join(lines)


def _line(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    return name + "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
