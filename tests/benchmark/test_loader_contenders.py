"""The contenders of ``loader`` and ``pack`` on tiny sets: each delivers the whole set, in its dtype and shape."""

from __future__ import annotations

import json
import re
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
from alexnet_dist.benchmark.contenders import loader_timing, our_loader, packing, peer_loaders
from alexnet_dist.benchmark.contenders.loader_timing import Epochs, LoaderSettings
from alexnet_dist.benchmark.rounds import Contender
from alexnet_dist.benchmark.suites import loader
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
def settings(pack_tiny: Pack, tmp_path: Path) -> LoaderSettings:
    root = pack_tiny(counts=(20, 20))
    loader.unpack(Split.open(root, "train"), tmp_path / "images")
    return LoaderSettings(str(root), str(tmp_path), IMAGES, workers=1, batch=BATCH, crop=14)


@pytest.mark.parametrize(
    ("open_epochs", "dtype", "shape"),
    [
        (our_loader.epochs, torch.uint8, (14, 14, 3)),
        (peer_loaders.webdataset_pil, torch.float32, (3, 14, 14)),
        (peer_loaders.webdataset_simplejpeg, torch.uint8, (14, 14, 3)),
        (peer_loaders.folder_pil, torch.float32, (3, 14, 14)),
        (peer_loaders.folder_pil_uint8, torch.uint8, (14, 14, 3)),
    ],
)
def test_an_epoch_is_the_whole_set_in_another_order(
    settings: LoaderSettings,
    open_epochs: Callable[[LoaderSettings], Epochs],
    dtype: torch.dtype,
    shape: tuple[int, ...],
) -> None:
    epochs = open_epochs(settings)
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
        assert len({image.numpy().tobytes() for image in orders[-1]}) == IMAGES
    assert not torch.equal(orders[0], orders[1])


def test_ours_are_the_crops_and_half_of_them_are_flipped(settings: LoaderSettings) -> None:
    split = Split.open(Path(settings.shards), "train")
    images = np.stack([simplejpeg.decode_jpeg(split.jpeg(sample), "RGB") for sample in range(IMAGES)])
    windows = np.lib.stride_tricks.sliding_window_view(images, (14, 14, 3), axis=(1, 2, 3)).reshape(-1, 14, 14, 3)
    known = {window.tobytes(): False for window in windows} | {window[:, ::-1].tobytes(): True for window in windows}
    flipped = [known[crop.numpy().tobytes()] for batch, _ in our_loader.epochs(settings)(0) for crop in batch]
    assert 8 < sum(flipped) < 32


def test_a_picture_is_cropped_flipped_and_normalised_as_torchvision_does() -> None:
    image = Image.fromarray(np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3))
    crops = {peer_loaders.crop_and_flip(image, 5).numpy().tobytes() for _ in range(100)}
    pixels = np.asarray(image)
    assert crops == {pixels[:, x : x + 5][:, ::step].tobytes() for x in (0, 1) for step in (1, -1)}
    grey = peer_loaders.normalised(torch.full((4, 4, 3), 51, dtype=torch.uint8))
    assert torch.allclose(
        grey[:, 0, 0], torch.tensor([(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.9156]), atol=1e-4
    )


def test_a_loader_is_measured_over_whole_epochs(settings: LoaderSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_timing, "START_UP_S", 0.0)
    monkeypatch.setattr(loader_timing, "MIN_TIMED_S", 0.05)
    figures = loader_timing.measure("our_loader:epochs", warm_first=True, **vars(settings))
    assert list(figures) == ["images_per_second", "cpu_ms_per_image", "first_batch_ms"]
    assert min(figures.values()) > 0
    assert figures["cpu_ms_per_image"] < 2 * 1000 * 2 / figures["images_per_second"]  # a worker and its consumer


@pytest.mark.parametrize(
    ("task", "figures"),
    [("read", ["images_per_second"]), ("boundary", ["boundary_stall_ms", "elsewhere_stall_ms"])],
)
def test_a_task_runs_in_a_process_of_its_own(settings: LoaderSettings, task: str, figures: list[str]) -> None:
    measured = rounds.run_alone(Contender(task, task, vars(settings)))
    assert list(measured) == [*figures, rounds.OTHERS]
    if task == "read":
        assert measured["images_per_second"] > 1000


def test_the_drawn_photographs_are_as_large_as_photographs() -> None:
    small = list(synthetic.draw(40, synthetic.PACKED_SIDES, synthetic.PACKED_CONTRAST))
    large = list(synthetic.draw(12, synthetic.FULL_SIDES, synthetic.FULL_CONTRAST))
    assert len(set(small)) == 40
    assert 18_000 < np.mean([len(jpeg) for jpeg in small]) < 26_000
    assert 90_000 < np.mean([len(jpeg) for jpeg in large]) < 130_000
    assert small[:3] == list(synthetic.draw(3, synthetic.PACKED_SIDES, synthetic.PACKED_CONTRAST))


def test_the_pillow_loop_makes_what_our_pack_makes(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "photographs", 2, ((300, 400), (290, 260)), synthetic.FULL_CONTRAST)
    seconds, cpu_s, images = packing.run_pack(tmp_path / "photographs", tmp_path / "packed", 1, samples_per_shard=1)
    assert images == 2
    assert 0 < cpu_s < 2 * seconds + 1
    split = Split.open(tmp_path / "packed", "train")
    packed = [simplejpeg.decode_jpeg(split.jpeg(sample), "RGB").astype(float) for sample in range(2)]
    for file in (tmp_path / "photographs").glob("*/*"):
        square = np.asarray(packing.square(file), dtype=float)
        assert square.shape == (256, 256, 3)
        assert min(np.abs(square - other).mean() for other in packed) < 4  # only the loss of JPEG


def test_the_command_prints_one_json_object(
    pack_tiny: Pack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(contender: Contender) -> Mapping[str, float]:
        return {"images_per_second": 6000.0 if contender.name == loader.OURS else 1000.0, rounds.OTHERS: 0.25}

    monkeypatch.setattr(rounds, "run_alone", run)
    monkeypatch.setattr(loader, "find_spec", lambda _: None)
    arguments = ["loader", "--shards", str(pack_tiny()), "--batch", "4"]
    main([*arguments, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["ratios"] == {"vs_webdataset": 6, "vs_webdataset_simplejpeg_uint8": 6, "vs_folder_pil": 6}
    assert printed["others_cpu_cores"] == 0.25
    assert [row["name"] for row in printed["rows"] if "missing" in row] == [loader.FFCV, loader.STREAMING]
    main(arguments)
    text = capsys.readouterr().out
    assert "not installed" in text
    assert "vs_webdataset " in text


def test_a_set_of_one_shard_leaves_out_the_peers_that_refuse_it(
    pack_tiny: Pack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """webdataset gives each worker whole shards, and refuses to give one none."""
    shards, run_alone = pack_tiny(counts=(20,)), rounds.run_alone

    def run(contender: Contender) -> Mapping[str, float]:
        if "webdataset" in str(contender.settings.get("loader")):
            return run_alone(contender)
        return {"images_per_second": 1.0, rounds.OTHERS: 0.0}

    monkeypatch.setattr(rounds, "run_alone", run)
    main(["loader", "--shards", str(shards), "--batch", "4", "--workers", "2", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert "missing" not in rows[loader.OURS]
    for name in (loader.WEB, loader.WEB_FAST):
        assert re.match("fails here: .*fewer shards than workers", rows[name]["missing"])


def test_ours_are_no_peers(pack_tiny: Pack, tmp_path: Path) -> None:
    contenders = loader.contenders(pack_tiny(), tmp_path / "others", 1, 4)
    ours = {contender.name for contender in contenders if not contender.is_peer}
    assert ours == {loader.OURS, loader.READING, loader.BOUNDARY}


def test_mistakes_are_reported_plainly(pack_tiny: Pack, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--rounds: 4; expected at least 5"):
        main(["pack", "--rounds", "4"])
    with pytest.raises(UserError, match=r"gone: no such folder"):
        main(["pack", "--source", str(tmp_path / "gone")])
    with pytest.raises(UserError, match=r"0 files in class folders; expected at least 100"):
        main(["pack", "--source", str(tmp_path)])
    with pytest.raises(UserError, match=r"20 images; expected at least 4 batches of 128"):
        main(["loader", "--shards", str(pack_tiny())])
