"""What the user asked pack to do, from its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Options
from alexnet_dist.pack.sources.options import BY_ITSELF, ReadOptions


@dataclass(frozen=True)
class PackRequest:
    """Which split of which source to pack, into which folder and how; see the command's --help."""

    source: Path
    out: Path
    split: SplitName
    options: Options
    layout: str = "auto"
    processes: int = 1
    max_rejected: int | None = None
    reading: ReadOptions = BY_ITSELF
