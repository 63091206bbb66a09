"""The contenders on tiny sets: each delivers the whole set as what it says, so that like is compared with like."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from alexnet_dist.benchmark import rounds, synthetic
from alexnet_dist.benchmark.__main__ import main
from alexnet_dist.benchmark.contenders import loader_timing as stream
from alexnet_dist.benchmark.contenders import our_loader as ours
from alexnet_dist.benchmark.contenders import packing
from alexnet_dist.benchmark.contenders import peer_loaders as peers
from alexnet_dist.benchmark.contenders.loader_timing import Epochs, Job
from alexnet_dist.benchmark.rounds import Entry
from alexnet_dist.benchmark.suites import loader as loading
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import UserError

Pack = Callable[..., Path]
IMAGES, BATCH = 40, 8

# Torch warns of more workers than cores; WebDataset leaves files to be closed by the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def job(pack_tiny: Pack, tmp_path: Path) -> Job:
    root = pack_tiny(counts=(20, 20))
    loading.unpack(Split.open(root, "train"), tmp_path / "images")
    return Job(str(root), str(tmp_path), IMAGES, workers=1, batch=BATCH, crop=14)


@pytest.mark.parametrize(
    ("open_epochs", "dtype", "shape"),
    [
        (ours.epochs, torch.uint8, (14, 14, 3)),
        (peers.webdataset_pil, torch.float32, (3, 14, 14)),
        (peers.webdataset_simplejpeg, torch.uint8, (14, 14, 3)),
        (peers.folder_pil, torch.float32, (3, 14, 14)),
        (peers.folder_pil_uint8, torch.uint8, (14, 14, 3)),
    ],
)
def test_an_epoch_is_the_whole_set_in_another_order(
    job: Job, open_epochs: Callable[[Job], Epochs], dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    epochs = open_epochs(job)
    orders = []
    for number in range(2):
        images, labels = [], []
        for batch, label in epochs(number):
            assert batch.dtype == dtype
            assert batch.shape[1:] == shape
            images.append(batch.clone())
            labels += label.tolist()
        assert Counter(labels) == Counter([sample % 5 for sample in range(IMAGES)])
        orders.append(torch.cat(images))
        assert len({one.numpy().tobytes() for one in orders[-1]}) == IMAGES
    assert not torch.equal(orders[0], orders[1])


def test_ours_are_the_crops_and_half_of_them_are_flipped(job: Job) -> None:
    split = Split.open(Path(job.shards), "train")
    images = np.stack([simplejpeg.decode_jpeg(split.jpeg(sample), "RGB") for sample in range(IMAGES)])
    windows = np.lib.stride_tricks.sliding_window_view(images, (14, 14, 3), axis=(1, 2, 3)).reshape(-1, 14, 14, 3)
    known = {window.tobytes(): False for window in windows} | {window[:, ::-1].tobytes(): True for window in windows}
    found = [known[crop.numpy().tobytes()] for batch, _ in ours.epochs(job)(0) for crop in batch]
    assert 8 < sum(found) < 32


def test_a_picture_is_cropped_flipped_and_normalised_as_torchvision_does() -> None:
    image = Image.fromarray(np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3))
    crops = {peers.crop_and_flip(image, 5).numpy().tobytes() for _ in range(100)}
    pixels = np.asarray(image)
    assert crops == {pixels[:, x : x + 5][:, ::step].tobytes() for x in (0, 1) for step in (1, -1)}
    found = peers.normalised(torch.full((4, 4, 3), 51, dtype=torch.uint8))
    assert torch.allclose(
        found[:, 0, 0], torch.tensor([(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.9156]), atol=1e-4
    )


def test_a_loader_is_measured_over_whole_epochs(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SETTLE_S", 0.0)
    monkeypatch.setattr(stream, "COUNTED_S", 0.05)
    found = stream.measure("our_loader:epochs", warm_first=True, **vars(job))
    assert list(found) == ["images_per_second", "cpu_ms_per_image", "first_batch_ms"]
    assert min(found.values()) > 0
    assert found["cpu_ms_per_image"] < 2 * 1000 * 2 / found["images_per_second"]  # a worker and its consumer


@pytest.mark.parametrize(
    ("task", "figures"),
    [("read", ["images_per_second"]), ("boundary", ["boundary_stall_ms", "elsewhere_stall_ms"])],
)
def test_a_task_runs_in_a_process_of_its_own(job: Job, task: str, figures: list[str]) -> None:
    found = rounds.run_alone(Entry(task, task, vars(job)))
    assert list(found) == [*figures, rounds.OTHERS]
    if task == "read":
        assert found["images_per_second"] > 1000


def test_the_drawn_photographs_are_as_large_as_photographs() -> None:
    small = list(synthetic.draw(40, synthetic.PACKED_SIDES, synthetic.PACKED_CONTRAST))
    large = list(synthetic.draw(12, synthetic.FULL_SIDES, synthetic.FULL_CONTRAST))
    assert len(set(small)) == 40
    assert 18_000 < np.mean([len(one) for one in small]) < 26_000
    assert 90_000 < np.mean([len(one) for one in large]) < 130_000
    assert small[:3] == list(synthetic.draw(3, synthetic.PACKED_SIDES, synthetic.PACKED_CONTRAST))


def test_the_pillow_loop_makes_what_our_pack_makes(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "photographs", 2, ((300, 400), (290, 260)), synthetic.FULL_CONTRAST)
    seconds, cpu_s, images = packing.pack(tmp_path / "photographs", tmp_path / "packed", 1, samples_per_shard=1)
    assert images == 2
    assert 0 < cpu_s < 2 * seconds + 1
    split = Split.open(tmp_path / "packed", "train")
    packed = [simplejpeg.decode_jpeg(split.jpeg(sample), "RGB").astype(float) for sample in range(2)]
    for file in (tmp_path / "photographs").glob("*/*"):
        square = np.asarray(packing.square(file), dtype=float)
        assert square.shape == (256, 256, 3)
        assert min(np.abs(square - one).mean() for one in packed) < 4  # what JPEG changes, and no more


def test_the_command_prints_one_json_object(
    pack_tiny: Pack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(entry: Entry) -> Mapping[str, float]:
        return {"images_per_second": 6000.0 if entry.name == loading.OURS else 1000.0, rounds.OTHERS: 0.25}

    monkeypatch.setattr(rounds, "run_alone", run)
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    words = ["loader", "--shards", str(pack_tiny()), "--batch", "4"]
    main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["ratios"] == {"vs_webdataset": 6, "vs_webdataset_simplejpeg_uint8": 6, "vs_folder_pil": 6}
    assert found["others_cpu_cores"] == 0.25
    assert [row["name"] for row in found["rows"] if "missing" in row] == [loading.FFCV, loading.STREAMING]
    main(words)
    said = capsys.readouterr().out
    assert "not installed" in said
    assert "vs_webdataset " in said


def test_mistakes_are_told_plainly(pack_tiny: Pack, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--rounds: 4; expected at least 5"):
        main(["pack", "--rounds", "4"])
    with pytest.raises(UserError, match=r"gone: no such folder"):
        main(["pack", "--source", str(tmp_path / "gone")])
    with pytest.raises(UserError, match=r"0 files in class folders; expected at least 100"):
        main(["pack", "--source", str(tmp_path)])
    with pytest.raises(UserError, match=r"20 images; expected at least 4 batches of 128"):
        main(["loader", "--shards", str(pack_tiny())])
