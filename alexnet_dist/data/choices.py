"""The choices that a packed set has: splits, chroma subsampling and resize filters; light enough for --help."""

from __future__ import annotations

from typing import Literal, get_args

SplitName = Literal["train", "val", "test"]
Chroma = Literal["420", "422", "444"]
Filter = Literal["bicubic", "bilinear"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
