"""Run every contender once a round, each in a fresh process of its own, and take medians over the rounds.

What disturbs a machine comes and goes: with the contenders in turn it meets all of them, and a ratio is taken within
a round before it is taken the median of. A fresh process starts with cold caches of its own and leaves nothing behind.
"""

from __future__ import annotations

import json
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

LEAST_ROUNDS = 5
# No contender takes as long; one that hangs must not hang the benchmark.
LONGEST_RUN_S = 900
# Figures of the machine and not of the contender: they are told once, over all.
OTHERS = "others_cpu_cores"
SPREAD, NARROWEST = "spread", 7  # the table's last column, and characters of its narrowest


@dataclass(frozen=True)
class Entry:
    """A contender of a benchmark.

    name: as the table says it. task, settings: the words for `alexnet_dist.benchmark.contenders`, which prints its
    figures as one JSON object. missing: why it cannot run here, or empty.
    """

    name: str
    task: str
    settings: Mapping[str, object]
    missing: str = ""


@dataclass(frozen=True)
class Row:
    """What a contender did: one object of figures a round; none of them where it is missing."""

    entry: Entry
    rounds: tuple[Figures, ...]

    def median(self, figure: str) -> float | None:
        """Return the median of a figure over the rounds; None where the contender does not have it."""
        values = [one[figure] for one in self.rounds if figure in one]
        return median(values) if values else None

    def spread(self, figure: str) -> float | None:
        """Return (largest - smallest) / median over the rounds, a fraction; None where the median is not above 0."""
        values = [one[figure] for one in self.rounds if figure in one]
        return (max(values) - min(values)) / median(values) if values and median(values) > 0 else None

    def summary(self) -> dict[str, object]:
        """Return the row as the JSON has it: its name, the median of each figure, the spread of the first."""
        names = list(self.rounds[0]) if self.rounds else []
        found: dict[str, object] = {"name": self.entry.name}
        found |= {name: self.median(name) for name in names if name != OTHERS}
        if names:
            found["spread"] = self.spread(names[0])
        if self.entry.missing:
            found["missing"] = self.entry.missing
        return found


def run_rounds(entries: Sequence[Entry], rounds: int) -> list[Row]:
    """Run all contenders `rounds` times in turn, and return their rows in the order of `entries`."""
    figures: dict[str, list[Figures]] = {entry.name: [] for entry in entries}
    for number in range(rounds):
        for entry in entries:
            if not entry.missing:
                print(f"round {number + 1}/{rounds}: {entry.name}", file=sys.stderr, flush=True)
                figures[entry.name].append(run_alone(entry))
    return [Row(entry, tuple(figures[entry.name])) for entry in entries]


def run_alone(entry: Entry) -> Figures:
    """Run a contender in a process of its own and return its figures; RunError with its last words where it fails."""
    began_s, busy_before_s, own_before_s = time.monotonic(), busy_s(), children_s()
    words = [sys.executable, "-m", "alexnet_dist.benchmark.contenders", entry.task, json.dumps(entry.settings)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LONGEST_RUN_S)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise RunError(f"{entry.name}: its process ended with exit code {done.returncode}\n{last}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    others_s = busy_s() - busy_before_s - (children_s() - own_before_s)
    return {**found, OTHERS: max(0.0, others_s) / (time.monotonic() - began_s)}


def children_s() -> float:
    """Return the CPU seconds of all processes that this one has started and waited for, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def busy_s() -> float:
    """Return the seconds that all cores of the machine together have not been idle, from /proc/stat; 0 without it."""
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, interrupt, soft = (int(word) for word in words[1:8])
    return (user + nice + system + interrupt + soft) / 100


def ratio(rows: Sequence[Row], ours: str, theirs: str, figure: str = "images_per_second") -> float | None:
    """Return the median over the rounds of our figure divided by theirs; None where either is missing."""
    named = {row.entry.name: row.rounds for row in rows}
    if not (named.get(ours) and named.get(theirs)):
        return None
    return median(a[figure] / b[figure] for a, b in zip(named[ours], named[theirs], strict=True))


def others_cpu_cores(rows: Sequence[Row]) -> float:
    """Return the largest number of cores that anything else on the machine took during a contender's run."""
    return max((one[OTHERS] for row in rows for one in row.rounds if OTHERS in one), default=0.0)


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Return the rows as aligned text; columns: title by figure."""
    first = max(len(row.entry.name) for row in rows)
    widths = [max(len(title), NARROWEST) + 2 for title in (*columns.values(), SPREAD)]
    lines = [_line("".ljust(first), (*columns.values(), SPREAD), widths)]
    for row in rows:
        name = row.entry.name.ljust(first)
        if row.entry.missing:
            lines.append(f"{name}  {row.entry.missing}")
            continue
        spread = row.spread(next(iter(row.rounds[0])))
        cells = [_number(row.median(figure)) for figure in columns]
        lines.append(_line(name, [*cells, "-" if spread is None else f"{spread:.0%}"], widths))
    return "\n".join(lines)


def _line(name: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    return name + "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
