"""The benchmark ``checkpoint``: a save behind the steps, beside torch.save and a copy of the same tensors in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_dist.benchmark.rounds import Contender, Result, ratio
from alexnet_dist.errors import UserError

COPY, TORCH, OURS = "copy in memory", "torch.save and fsync", "ours"
COLUMNS = {"stall_ms": "stall ms", "durable_ms": "durable ms"}


def contenders(folder: Path | None, repeats: int, threads: int) -> list[Contender]:
    """Return the contenders over the paper's net; folder: where they write, None for that of temporary files.

    Raises UserError if there is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"--folder: {folder}: no such folder; expected one on the disk that runs are written to")
    settings = {"repeats": repeats, "threads": threads, "folder": None if folder is None else str(folder)}
    return [
        Contender(COPY, "checkpoint", {**settings, "kind": "copy"}, is_peer=True),
        Contender(TORCH, "checkpoint", {**settings, "kind": "torch"}, is_peer=True),
        Contender(OURS, "checkpoint", {**settings, "kind": "ours"}),
    ]


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """Return how long ours stops training, in copies and in saves of torch's, and our whole save over torch's."""
    values = {
        "stall_vs_copy": ratio(results, OURS, COPY, "stall_ms"),
        "stall_vs_torch_save": ratio(results, OURS, TORCH, "stall_ms"),
        "durable_vs_torch_save": ratio(results, OURS, TORCH, "durable_ms"),
    }
    return {name: value for name, value in values.items() if value is not None}
