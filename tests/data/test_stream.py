"""The stream of global batches: the same bytes for any replicas, layout and workers, and from any step on.

Each rank's requests are built as feed.Feed builds them, each rank's loader decodes them, and the halves are
concatenated as the towers do. A batch's hash covers what the net reads: ids, pixels and labels.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from alexnet_dist.data.loader import BatchRequest, Loader
from alexnet_dist.data.plan import tower_half
from alexnet_dist.data.reader import Split
from alexnet_dist.training.run_plan import BatchSpec, RunPlan

Pack = Callable[..., Path]
COUNTS, CROP, SEED = (17, 5, 31), 14, 3
STEPS = 13  # crosses two epoch boundaries, at five batches per epoch
# Three and four replicas do not divide the global batch, and some halves are odd.
RUN_PLAN = RunPlan(
    counts=COUNTS, seed=SEED, global_batch=10, lanes=4, window=8, accumulate=1, steps=STEPS, validation_images=0,
    validation_rows=0, evaluate_every=0,
)  # fmt: skip
LAYOUTS = {"paired": ((0,), (1,)), "fused": ((0, 1),)}
GEOMETRIES = [(replicas, layout) for replicas in (1, 2, 3, 4) for layout in LAYOUTS]

# Torch warns about more workers than cores; these tests use them for the order of samples, not for speed.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def split(pack_tiny: Pack) -> Split:
    return Split.open(pack_tiny(counts=COUNTS), "train")


def rank_requests(batches: Iterator[BatchSpec], towers: tuple[int, ...]) -> Iterator[BatchRequest]:
    """Yield a rank's requests: its half of its replica's slots, or all of them if it holds both towers."""
    for spec in batches:
        first, end = (0, len(spec.ids)) if len(towers) == 2 else tower_half(towers[0], 0, len(spec.ids))
        yield BatchRequest("train", spec.epoch, spec.ids[first:end], spec.train)


def open_rank(split: Split, workers: int) -> Loader:
    return Loader({"train": split}, seed=SEED, crop=CROP, rows=10, workers=workers, max_bad_fraction=0.0)


def hashes(
    split: Split, replicas: int, layout: str, workers: int, step: int = 0, run_plan: RunPlan = RUN_PLAN
) -> Iterator[str]:
    """Yield the hash of each global batch from `step` on; all ranks' loaders live in this process."""
    ranks = [(replica, towers) for replica in range(replicas) for towers in LAYOUTS[layout]]
    with ExitStack() as loaders:
        streams = []
        for replica, towers in ranks:
            loader = loaders.enter_context(open_rank(split, workers))
            streams.append(loader.run(rank_requests(run_plan.batches(replica, replicas, step, 0), towers)))
        for parts in zip(*streams, strict=True):
            ids = b"".join(part.request.ids.tobytes() for part in parts)
            rows = b"".join(part.rows.numpy().tobytes() for part in parts)
            yield hashlib.sha256(ids + rows).hexdigest()


@pytest.fixture
def expected(split: Split) -> list[str]:
    stream = list(hashes(split, 1, "fused", workers=0))
    assert len(set(stream)) == STEPS
    return stream


@pytest.mark.parametrize("workers", [0, 1, 2, 8])
def test_the_stream_is_the_same_for_any_replicas_and_layout(split: Split, expected: list[str], workers: int) -> None:
    for replicas, layout in GEOMETRIES:
        assert list(hashes(split, replicas, layout, workers)) == expected, (replicas, layout)


def test_a_stream_that_is_stopped_resumes_in_any_other_geometry(split: Split, expected: list[str]) -> None:
    random = np.random.default_rng(0)
    for stop in range(1, STEPS):
        before, after = (GEOMETRIES[i] for i in random.integers(0, len(GEOMETRIES), 2))
        workers = int(random.integers(0, 3))
        first = list(islice(hashes(split, before[0], before[1], workers), stop))
        began_s = time.monotonic()
        rest = hashes(split, after[0], after[1], workers, step=stop)
        resumed = [*first, next(rest)]
        # The guarantee is 1 s per rank; here up to eight ranks start in sequence, on a machine that may be busy.
        assert time.monotonic() - began_s < 10
        assert [*resumed, *rest] == expected, (stop, before, after, workers)


def test_a_run_of_imagenets_size_resumes_quickly_at_a_late_step(split: Split) -> None:
    large = replace(RUN_PLAN, counts=(1000,) * 1281 + (167,), global_batch=128, steps=10**6, lanes=32, window=2048)
    began_s = time.monotonic()
    spec = next(large.batches(0, 1, step=876_543, evaluated_step=0))
    with open_rank(split, workers=2) as loader:
        next(loader.run([BatchRequest("train", spec.epoch, spec.ids[:10] % split.images, random_crop=True)]))
    # Measured: 0.2 s; decoding or skipping the earlier samples would take hours.
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("change", [{"seed": 4}, {"lanes": 3}, {"window": 7}])
def test_the_hash_depends_on_the_order(split: Split, expected: list[str], change: dict[str, int]) -> None:
    other = replace(RUN_PLAN, **change)  # type: ignore[arg-type]
    assert list(hashes(split, 1, "fused", workers=0, run_plan=other)) != expected
