"""The loader: the same stream for any number of workers, substitutes for bad samples, and errors of workers."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
import torch

from alexnet_dist.data.augment import crop_offsets
from alexnet_dist.data.loader import BatchRequest, LoadedBatch, Loader, labels, pixels, row_bytes
from alexnet_dist.data.plan import EpochPlan, validation_ids
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import UserError

Pack = Callable[..., Path]
Draw = Callable[[int, int], list[bytes]]
CROP = 14

# Torch warns about more workers than cores; these tests use them for the order of samples, not for speed.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def open_loader(
    splits: dict[str, Split], workers: int = 0, rows: int = 6, crop: int = CROP, fraction: float = 0.1
) -> Loader:
    return Loader(splits, seed=5, crop=crop, rows=rows, workers=workers, max_bad_fraction=fraction)


def training_requests(split: Split, epochs: int = 3) -> list[BatchRequest]:
    plans = [EpochPlan(split.counts, seed=5, epoch=e, global_batch=6, lanes=2, window=4) for e in range(epochs)]
    return [
        BatchRequest("train", p.epoch, p.sample_ids(b, 0, 6), random_crop=True) for p in plans for b in range(p.batches)
    ]


def fingerprints(batches: Iterable[LoadedBatch]) -> list[str]:
    """Return a hash of ids, pixels and labels for each batch."""
    return [
        hashlib.sha256(batch.request.ids.tobytes() + pixels(batch.rows, CROP).numpy().tobytes()
                       + labels(batch.rows).numpy().tobytes()).hexdigest()
        for batch in batches
    ]  # fmt: skip


def decoded(split: Split, sample: int) -> npt.NDArray[np.uint8]:
    image: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(split.jpeg(sample), "RGB")
    return image


@pytest.fixture
def split(pack_tiny: Pack) -> Split:
    return Split.open(pack_tiny(), "train")


def test_training_rows_are_the_drawn_crops_with_their_labels(split: Split) -> None:
    requests = training_requests(split, epochs=1)
    with open_loader({"train": split}) as loader:
        for batch in loader.run(requests):
            assert batch.rows.shape == (6, row_bytes(CROP))
            top, left = crop_offsets(5, 0, batch.request.ids, 16, CROP)
            for n, sample in enumerate(batch.request.ids.tolist()):
                crop = decoded(split, sample)[top[n] : top[n] + CROP, left[n] : left[n] + CROP]
                assert np.array_equal(pixels(batch.rows, CROP)[n].numpy(), crop)
                assert labels(batch.rows)[n] == sample % 5
            assert batch.bad == ()


def test_validation_rows_are_centre_crops_and_empty_rows_are_empty(pack_tiny: Pack) -> None:
    val = Split.open(pack_tiny(split="val"), "val")
    ids = validation_ids(3, 0, 1, val.images, 6)
    assert ids.tolist() == [18, 19, -1, -1, -1, -1]
    full = np.full(6, 3)
    with open_loader({"val": val}) as loader:
        # Four requests: the last one reuses the slot that holds the rows of the first.
        batches = loader.run([BatchRequest("val", 0, values, random_crop=False) for values in (full, full, full, ids)])
        *_, batch = batches
        for n, sample in enumerate((18, 19)):
            assert np.array_equal(pixels(batch.rows, CROP)[n].numpy(), decoded(val, sample)[1:15, 1:15])
        assert labels(batch.rows).tolist() == [3, 4, -1, -1, -1, -1]
        assert not pixels(batch.rows, CROP)[2:].any()


@pytest.mark.parametrize("train", [True, False])
def test_a_crop_may_be_the_whole_image(split: Split, train: bool) -> None:
    with open_loader({"train": split}, crop=16) as loader:
        (batch,) = loader.run([BatchRequest("train", 2, np.array([11, 0]), train)])
        for n, sample in enumerate((11, 0)):
            assert np.array_equal(pixels(batch.rows, 16)[n].numpy(), decoded(split, sample))


def test_odd_crops_keep_pixels_and_labels_apart(split: Split) -> None:
    with open_loader({"train": split}, crop=7) as loader:
        (batch,) = loader.run([BatchRequest("train", 0, np.arange(6), random_crop=False)])
        assert labels(batch.rows).tolist() == [0, 1, 2, 3, 4, 0]
        assert np.array_equal(pixels(batch.rows, 7)[5].numpy(), decoded(split, 5)[4:11, 4:11])
        alone = batch.rows[2:3].clone()
        copied = labels(alone)
        alone.zero_()  # as when the ring is overwritten
        assert copied.tolist() == [2]


def test_the_stream_is_the_same_for_any_number_of_workers_and_wherever_it_starts(pack_tiny: Pack) -> None:
    train = Split.open(pack_tiny(), "train")
    val = Split.open(pack_tiny(split="val"), "val")
    requests = training_requests(train)
    requests[4:4] = [
        BatchRequest("val", 0, validation_ids(k, 0, 1, val.images, 6), random_crop=False) for k in range(4)
    ]
    streams = {}
    for workers in (0, 1, 3):
        with open_loader({"train": train, "val": val}, workers) as loader:
            streams[workers] = fingerprints(loader.run(requests))
    assert len(set(streams[0])) == len(requests)
    assert streams[0] == streams[1] == streams[3]
    for start in (1, 6, len(requests) - 1):
        with open_loader({"train": train, "val": val}, workers=1) as loader:
            assert fingerprints(loader.run(requests[start:])) == streams[0][start:]


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_stay_while_the_next_batch_is_asked_for(split: Split, workers: int) -> None:
    requests = training_requests(split, epochs=6)
    with open_loader({"train": split}, workers) as loader:
        batches = loader.run(requests)
        held = next(batches)
        for batch in batches:
            copy = held.rows.clone()
            time.sleep(0.002)  # the workers write to all the slots they may use
            assert torch.equal(held.rows, copy)
            for n, sample in enumerate(held.request.ids.tolist()):
                assert labels(held.rows)[n] == sample % 5
            held = batch


def test_requests_are_not_read_before_run_and_then_only_a_few_ahead(split: Split) -> None:
    read: list[int] = []

    def requests() -> Iterator[BatchRequest]:
        for number in range(50):
            read.append(number)
            yield BatchRequest("train", 0, np.arange(6), random_crop=True)

    before = len(multiprocessing.active_children())
    with open_loader({"train": split}, workers=2) as loader:
        assert len(multiprocessing.active_children()) == before + 2
        batches = loader.run(requests())
        assert read == []
        next(batches)
        assert 1 <= len(read) <= 5
        with pytest.raises(RuntimeError, match="called only once"):
            loader.run([])


def test_loading_draws_no_ambient_random_numbers(split: Split) -> None:
    before = torch.get_rng_state()
    with open_loader({"train": split}, workers=1) as loader:
        list(loader.run(training_requests(split, epochs=1)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_sample_that_decodes_stands_in_for_a_bad_one(pack_tiny: Pack, draw_jpegs: Draw, workers: int) -> None:
    jpegs = draw_jpegs(20, 16)
    jpegs[19] = jpegs[19][:-60]
    jpegs[0] = b"no jpeg"
    jpegs[7] = draw_jpegs(1, 8)[0]
    jpegs[11] = draw_jpegs(1, 32)[0]
    split = Split.open(pack_tiny(jpegs), "train")
    ids = np.array([19, 3, 7, 11, -1, 0])
    with open_loader({"train": split}, workers) as loader:
        (batch,) = loader.run([BatchRequest("train", 1, ids, random_crop=True)])
        used = [1, 3, 8, 12, -1, 1]
        assert labels(batch.rows).tolist() == [sample if sample < 0 else sample % 5 for sample in used]
        # The draws are those of the planned sample.
        top, left = crop_offsets(5, 1, np.maximum(ids, 0), 16, CROP)
        for n, sample in enumerate(used):
            if sample >= 0:
                crop = decoded(split, sample)[top[n] : top[n] + CROP, left[n] : left[n] + CROP]
                assert np.array_equal(pixels(batch.rows, CROP)[n].numpy(), crop)
        assert [(bad.sample, bad.shard) for bad in batch.bad] == [
            (19, "train-000002.tar"), (7, "train-000001.tar"), (11, "train-000002.tar"), (0, "train-000000.tar"),
        ]  # fmt: skip
        assert [bad.kind for bad in batch.bad] == ["damaged", "size", "size", "damaged"]
        assert all(bad.reason for bad in batch.bad)
        assert batch.bad[2].reason == "32 x 32 pixels, expected 16 a side"
        assert batch.bad[1].reason == "8 x 8 pixels, expected 16 a side"


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_samples_stop_the_run_by_name(pack_tiny: Pack, draw_jpegs: Draw, workers: int) -> None:
    jpegs = draw_jpegs(20, 16)
    jpegs[9] = jpegs[9][:-60]
    split = Split.open(pack_tiny(jpegs), "train")
    requests = [BatchRequest("train", epoch, np.array([8, 9, 10, 11, -1]), random_crop=True) for epoch in range(30)]
    with open_loader({"train": split}, workers, fraction=0.25) as loader:
        assert len(list(loader.run(requests))) == 30  # exactly a quarter is allowed
    message = r"10 of 40 samples .*data\.max_bad_fraction = 0\.2.*sample 9 \(train-000002\.tar"
    with open_loader({"train": split}, workers, fraction=0.2) as loader:
        batches = loader.run(requests)
        assert len(list(islice(batches, 9))) == 9
        with pytest.raises(UserError, match=message):
            next(batches)


def test_a_damaged_shard_stops_the_run_by_name(pack_tiny: Pack, draw_jpegs: Draw) -> None:
    jpegs = draw_jpegs(8, 16) + [b"no jpeg"] * 12
    split = Split.open(pack_tiny(jpegs), "train")
    with (
        open_loader({"train": split}, workers=1, fraction=1.0) as loader,
        pytest.raises(UserError, match=r"8 samples in a row .*sample 8 \(train-000002\.tar"),
    ):
        list(loader.run([BatchRequest("train", 0, np.array([7, 8]), random_crop=True)]))


class PeculiarError(Exception):
    """An error that cannot be sent through a queue: its argument cannot be pickled."""

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__(function)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_workers_error_arrives_as_itself(split: Split, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> memoryview:
        raise PermissionError(13, "Permission denied", "train-000000.tar")

    monkeypatch.setattr(split, "jpeg", fail)
    with (
        open_loader({"train": split}, workers) as loader,
        pytest.raises(PermissionError) as caught,
    ):
        next(loader.run(training_requests(split)))
    assert str(caught.value) == "[Errno 13] Permission denied: 'train-000000.tar'"
    notes = "".join(getattr(caught.value, "__notes__", []))
    assert ("in fail" in notes) == (workers > 0)


def test_an_error_that_cannot_be_pickled_arrives_as_text(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> memoryview:
        raise PeculiarError(lambda: None)

    monkeypatch.setattr(split, "jpeg", fail)
    with open_loader({"train": split}, workers=1) as loader, pytest.raises(RuntimeError, match="PeculiarError"):
        next(loader.run(training_requests(split)))


def test_what_does_not_fit_is_refused(split: Split) -> None:
    with pytest.raises(UserError, match=r"data\.crop: 17; the images in .* have 16 pixels a side"):
        open_loader({"train": split}, crop=17)
    request = BatchRequest("train", 0, np.arange(7), random_crop=True)
    with open_loader({"train": split}, rows=6) as loader, pytest.raises(ValueError, match="request of 7 rows"):
        next(loader.run([request]))


def test_a_ring_that_no_memory_holds_is_refused(split: Split) -> None:
    with pytest.raises(
        UserError, match=r"images at once, in 3 slots, need [\d,.]+ GB of memory; lower data\.eval_rows"
    ):
        open_loader({"train": split}, rows=10**12)
