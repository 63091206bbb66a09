"""The options that say how to read a source, beside its layout."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_dist.pack.sources.fields import DETECTED, SampleFields


@dataclass(frozen=True)
class ReadOptions:
    """How to read a source; see the help of pack's options of the same names.

    fields: of the samples in shards. columns: of parquet files; None is image and label.
    allow_missing: whether to pack a source that lacks parts which it names.
    """

    fields: SampleFields = DETECTED
    columns: SampleFields = DETECTED
    allow_missing: bool = False


BY_ITSELF = ReadOptions()
