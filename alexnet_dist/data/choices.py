"""The choices that a packed set has: splits, chroma subsampling and resize filters; light enough for --help."""

from __future__ import annotations

from typing import Final, Literal, get_args

SplitName = Literal["train", "val", "test"]
Chroma = Literal["420", "422", "444"]
Filter = Literal["bicubic", "bilinear"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

BEST: Final = "best"  # in place of a step: the checkpoint with the lowest top-1 error on the validation set
