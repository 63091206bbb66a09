"""The benchmark ``train``: both contenders on a narrow net, their settings, the command, and what goes wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet_dist import config
from alexnet_dist.benchmark import rounds, synthetic
from alexnet_dist.benchmark.__main__ import main
from alexnet_dist.benchmark.contenders import plain_nets, whole_run
from alexnet_dist.benchmark.contenders.loader_timing import LoaderSettings
from alexnet_dist.benchmark.contenders.packing import run_pack
from alexnet_dist.benchmark.contenders.peer_loaders import webdataset_pil_batches
from alexnet_dist.benchmark.rounds import OTHERS, Contender
from alexnet_dist.benchmark.suites import step, train_run
from alexnet_dist.benchmark.suites.train_run import RunSettings
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.nn.geometry import Geometry

Pack = Callable[..., Path]
IMAGES, CLASSES, WIDTH_DIVISOR = 10, 3, 16
NARROW = [
    f"model.layers.{name}.channels={layer.channels}"
    for name, layer in plain_nets.geometry(WIDTH_DIVISOR).layers.items()
    if name != "fc8"
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a packed set of a few images of 256 pixels in two shards."""
    home = tmp_path_factory.mktemp("photographs")
    synthetic.write(home / "source", IMAGES, synthetic.PACKED_SIDES, synthetic.PACKED_CONTRAST, CLASSES)
    run_pack(home / "source", home / "shards", 1, IMAGES // 2)
    return home / "shards"


@pytest.fixture
def settings(packed: Path) -> RunSettings:
    return RunSettings(packed, CLASSES, batch=4, steps=4, workers=1, threads=1)


def test_our_run_is_the_command_and_its_figures_are_of_its_records(settings: RunSettings, tmp_path: Path) -> None:
    figures = rounds.run_alone(Contender("ours", "run", train_run.our_settings(settings, tmp_path, *NARROW)))
    assert list(figures) == ["images_per_second", "step_ms", "data_wait_share", OTHERS]
    assert figures["images_per_second"] == pytest.approx(1000 * settings.batch / figures["step_ms"])
    assert 0 <= figures["data_wait_share"] < 1
    assert list(tmp_path.iterdir()) == []  # the run's directory is gone


def test_the_plain_run_trains_on_the_same_set(settings: RunSettings) -> None:
    narrow = {**train_run.plain_settings(settings), "width_divisor": WIDTH_DIVISOR}
    figures = rounds.run_alone(Contender("plain", "plain_run", narrow))
    assert list(figures) == ["images_per_second", "step_ms", OTHERS]
    assert figures["images_per_second"] == pytest.approx(1000 * settings.batch / figures["step_ms"])


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_plain_runs_batches_have_no_end_and_one_size(packed: Path) -> None:
    loader = LoaderSettings(str(packed), "", 0, workers=0, batch=4, crop=plain_nets.SIDE)
    batches = webdataset_pil_batches(loader, pinned=False)
    for _ in range(2 * IMAGES // 4 + 1):  # more than two epochs, none of which is a whole number of batches
        images, labels = next(batches)
        assert images.shape == (4, 3, plain_nets.SIDE, plain_nets.SIDE)
        assert images.dtype == torch.float32
        assert set(torch.as_tensor(labels).tolist()) <= set(range(CLASSES))


def test_steps_that_warm_up_and_the_end_of_the_run_are_not_counted() -> None:
    times_s = [60.0, 61.0, 63.0, 65.0, 69.0]
    records = [
        {"step": number, "images": 8 * number, "time_s": time_s, "data_wait_s": 0.5}
        for number, time_s in enumerate(times_s, 1)
    ]
    figures = whole_run.figures(records, warm_up=2)
    assert figures == {
        "images_per_second": 3,
        "step_ms": pytest.approx(8000 / 3),
        "data_wait_share": 1.5 / 8,
    }
    with pytest.raises(RunError, match=r"the run recorded 2 steps; expected more than the 2 that are not counted"):
        whole_run.figures(records[:2], warm_up=2)


def test_a_run_that_fails_says_what_its_log_says_last(settings: RunSettings, tmp_path: Path) -> None:
    wrong = replace(settings, classes=CLASSES + 4)
    contender = Contender("ours", "run", train_run.our_settings(wrong, tmp_path))
    with pytest.raises(RunError) as failed:
        rounds.run_alone(contender)
    message = str(failed.value)
    assert message.startswith("ours: its process ended with exit code 2\nerror: the run ended with exit code 2:\n")
    assert message.splitlines()[-1].startswith("error: model.classes: 7, but the shards in ")
    assert "Traceback" not in message


def test_a_run_that_breaks_is_no_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="the run ended with exit code 1"):
        whole_run.train([], threads=1)


def resolved(contender: Contender) -> config.Config:
    """Return the configuration of a run of ours."""
    words = contender.settings["words"]
    assert isinstance(words, list)
    assert words[:2] == ["--config", "one_gpu"]
    return config.load([Path(words[1])], words[2:]).config


def test_both_contenders_do_the_same_work(settings: RunSettings, tmp_path: Path) -> None:
    ours, plain = train_run.contenders(settings, tmp_path)
    assert (ours.is_peer, plain.is_peer) == (False, True)
    run = resolved(ours)
    assert (run.topology.layout, run.metrics.port, run.run.evaluate_every) == ("fused", None, 0)
    assert (run.train.device, run.train.dtype, run.train.cuda_graph) == ("cpu", "float32", False)
    assert run.data.root == plain.settings["shards"]
    assert run.data.global_batch == plain.settings["batch"] == 4
    assert run.data.workers == plain.settings["workers"] == 1
    assert run.data.crop == plain_nets.SIDE
    assert run.model.classes == plain.settings["classes"] == CLASSES
    assert config.geometry(run) == Geometry(classes=CLASSES)
    assert ours.settings["threads"] == plain.settings["threads"] == 1
    assert ours.settings["warm_up"] == plain.settings["warm_up"] == train_run.WARM_UP
    assert run.run.steps == train_run.WARM_UP + settings.steps
    assert plain.settings["steps"] == settings.steps
    assert run.run.log_every == 1


def test_on_cuda_a_graph_is_a_third_contender(settings: RunSettings, tmp_path: Path) -> None:
    on_cuda = replace(settings, device="cuda", dtype="bfloat16", workers=8)
    ours, graph, plain = train_run.contenders(on_cuda, tmp_path)
    run, graphed = resolved(ours), resolved(graph)
    assert (run.train.device, run.train.dtype, run.train.channels_last) == ("cuda", "bfloat16", True)
    assert (run.train.cuda_graph, graphed.train.cuda_graph) == (False, True)
    assert graphed.model_copy(update={"train": run.train}) == run
    assert (plain.settings["dtype"], plain.settings["channels_last"]) == ("bfloat16", True)
    # What eight workers have decoded before the steps that count is used up by then.
    assert ours.settings["warm_up"] == plain.settings["warm_up"] == train_run.WARM_UP_CUDA + 16
    assert not resolved(train_run.contenders(replace(on_cuda, dtype="float32"), tmp_path)[0]).train.channels_last


@pytest.fixture
def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(contender: Contender) -> Mapping[str, float]:
        speed = {train_run.OURS: 30.0, train_run.OURS_GRAPH: 36.0, train_run.PLAIN: 20.0}[contender.name]
        waits = {} if contender.is_peer else {"data_wait_share": 0.125}
        return {"images_per_second": speed, "step_ms": 1000 / speed, **waits, OTHERS: 0.25}

    monkeypatch.setattr(rounds, "run_alone", run)


@pytest.mark.usefixtures("_made_up")
def test_the_command(packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--shards", str(packed), "--batch", "4"]
    main([*arguments, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["ratios"] == {"run_vs_plain": 1.5}
    assert (printed["steps"], printed["uncounted_steps"]) == (train_run.STEPS, train_run.WARM_UP)
    assert [row.get("data_wait_share") for row in printed["rows"]] == [0.125, None]
    main(arguments)
    text = capsys.readouterr().out
    assert "data wait share" in text
    assert "6 steps of 4 images, after 3 that are not counted" in text
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    main([*arguments, "--device", "cuda", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["ratios"] == {"run_vs_plain": 1.5, "run_graph_vs_plain": 1.8}
    assert printed["steps"] == train_run.STEPS_CUDA


@pytest.mark.usefixtures("_made_up")
def test_a_set_is_generated_with_as_many_classes_as_the_papers_net(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Contender] = []
    run = rounds.run_alone

    def look(contender: Contender) -> Mapping[str, float]:
        seen.append(contender)
        return run(contender)

    monkeypatch.setattr(rounds, "run_alone", look)
    monkeypatch.setattr(plain_nets, "CLASSES", 5)
    main(["train", "--images", "12", "--batch", "4", "--workers", "3", "--json"])
    ours, plain = seen[:2]
    assert plain.settings["classes"] == 5
    assert resolved(ours).model.classes == 5
    assert json.loads(capsys.readouterr().out)["ratios"] == {"run_vs_plain": 1.5}


def test_step_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(step, "contenders", lambda _settings: [Contender("a", "", {})])
    monkeypatch.setattr(rounds, "run_alone", lambda _contender: {"images_per_second": 1.0, OTHERS: 0.0})
    main(["step"])
    assert capsys.readouterr().out.endswith(
        "not in these steps: reading and decoding of images, their copy to the device, preparation of the input;"
        " `python -m alexnet_dist.benchmark train` measures whole runs\n"
    )
    main(["step", "--json"])
    assert json.loads(capsys.readouterr().out)["leaves_out"] == step.LEAVES_OUT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "3"], "--steps: 3; expected at least 4"),
        (["--workers", "0"], "--workers: 0; expected at least 1"),
        (["--batch", "1"], "--batch: 1; expected at least 2"),
        (["--images", "0"], "--images: 0; expected at least 1"),
        (["--rounds", "4"], "--rounds: 4; expected at least 5"),
        (["--device", "cuda"], "--device cuda: torch finds 0 CUDA devices; expected at least 1"),
        (["--shards", "PACKED"], r"--batch: 32; expected at most 10, the images in .*shards: lower it or pack more"),
    ],
)
def test_mistakes_are_reported_plainly(
    arguments: list[str], message: str, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=message):
        main(["train", *(str(packed) if word == "PACKED" else word for word in arguments)])


def test_shards_that_do_not_fit_are_reported_plainly(pack_tiny: Pack, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--shards: .*images of 16 pixels; expected at least 224, .*: pack with --size"
    ):
        main(["train", "--shards", str(pack_tiny())])
    with pytest.raises(UserError, match=r"gone.*"):
        main(["train", "--shards", str(tmp_path / "gone")])
