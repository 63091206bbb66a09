"""The benchmark ``pack``: our pack command beside the usual loop over Pillow, and two processes beside one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_dist.benchmark.rounds import Contender, Result, ratio
from alexnet_dist.errors import UserError

MIN_FILES = 100
ONE, TWO, PIL = "ours, 1 process on 1 core", "ours, 2 processes", "Pillow loop, 1 process on 1 core"
COLUMNS = {"images_per_second": "images/s", "cpu_ms_per_image": "CPU ms/image", "start_s": "start s"}


def contenders(source: Path) -> list[Contender]:
    """Return the contenders over a folder of class folders; raises UserError if it contains too few files."""
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; set --source to a folder of class folders, or omit it")
    files = sum(1 for _ in source.glob("*/*"))
    if files < MIN_FILES:
        raise UserError(f"{source}: {files} files in class folders; expected at least {MIN_FILES}")
    settings = {"source": str(source)}
    return [
        Contender(ONE, "pack", {**settings, "processes": 1}),
        Contender(TWO, "pack", {**settings, "processes": 2}),
        Contender(PIL, "pack_pil", settings, is_peer=True),
    ]


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """Return the speed of ours over the loop's, on one core each, and of two processes over one."""
    values = {"pack_vs_pil": ratio(results, ONE, PIL), "pack_2_processes_vs_1": ratio(results, TWO, ONE)}
    return {name: value for name, value in values.items() if value is not None}
