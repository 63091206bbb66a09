"""The demo command: its recipe adapted to other images, its report, and its exit code when a step fails."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_dist import config
from alexnet_dist.demo import workflow
from alexnet_dist.demo.__main__ import main
from alexnet_dist.demo.images import CLASSES
from alexnet_dist.demo.paths import DemoPaths
from alexnet_dist.demo.summary import DemoResult, few_image_notes, overfitting_note, report
from alexnet_dist.errors import UserError

RESULT = DemoResult(
    paths=DemoPaths(Path("runs/demo"), Path("runs/demo-data"), Path("my images")),
    drawn=False,
    overrides=["model.classes=2", "optim.drop_epochs=[1.5, 2.0]"],
    example=Path("my images/val/a cat.jpg"),
    classes=2,
    train_images=4000,
    val_images=600,
    training_error=0.05,
    top1_error=0.0233,
    chance_error=0.9,
    steps=744,
    images_seen=47616,
    training_s=48.0,
    total_s=75.4,
)


@settings(deadline=None, max_examples=40)
@given(st.integers(workflow.RANKS, 2_000_000))
def test_the_recipe_fits_any_number_of_images(images: int) -> None:
    drawn = config.load([workflow.CONFIG], []).config
    adapted = config.load([workflow.CONFIG], workflow.recipe_overrides(drawn, 3, images)).config
    batch, epochs = adapted.data.global_batch, adapted.run.epochs
    assert workflow.RANKS <= batch <= min(images, drawn.data.global_batch)
    steps, expected = epochs * (images // batch), drawn.run.epochs * (workflow.TRAIN_IMAGES // drawn.data.global_batch)
    assert epochs == 1 or 0.6 * expected <= steps <= 1.5 * expected
    assert 1 <= epochs // adapted.run.evaluate_every <= 2 * drawn.run.epochs
    assert adapted.optim.drop_epochs[-1] / epochs == pytest.approx(drawn.optim.drop_epochs[-1] / drawn.run.epochs)


def test_the_drawn_images_get_the_recipe_as_it_is() -> None:
    drawn = config.load([workflow.CONFIG], []).config
    overrides = workflow.recipe_overrides(drawn, len(CLASSES), workflow.TRAIN_IMAGES)
    assert config.load([workflow.CONFIG], overrides).config == drawn
    assert drawn.model.classes == len(CLASSES)
    assert drawn.data.crop * 8 == workflow.SIZE * 7


def test_classes_with_few_images_are_named() -> None:
    assert list(few_image_notes(["cat", "dog"], [50, 400], [5, 40])) == []
    names = [f"c{number}" for number in range(9)]
    training, held_out = few_image_notes(names, [49, 3, *[60] * 7], [9, 9, *[1] * 7])
    assert "2 of 9 classes have fewer than 50 images to train on: c1 (3), c0 (49);" in training
    assert "7 of 9 classes have fewer than 5 images held out: c2 (1), " in held_out
    assert " and 2 more;" in held_out


def test_the_summary_says_what_ran_how_well_and_what_to_type() -> None:
    text = report(RESULT)
    for expected in (
        "744 steps, 47,616 images in 48 s, 992 images/s",
        "top-1 error on the held-out images: 2.33% (always predicting the most common class: 90.00%)",
        "predict runs/demo 'my images/val/a cat.jpg'",
        "runs/demo/report.html ",
        "runs/demo/figures/curves.png",
        "runs/demo/metrics.jsonl",
        "runs/demo/checkpoints ",
        "(yours)",
        "data.root=runs/demo-data/shards run.directory=runs/mine model.classes=2 'optim.drop_epochs=[1.5, 2.0]'",
    ):
        assert expected in text
    assert "predict runs/demo IMAGE.jpg" in report(replace(RESULT, example=None))
    spaced = replace(RESULT, paths=replace(RESULT.paths, run=Path("my run")))
    assert "evaluate 'my run' --views 10" in report(spaced)
    assert "(drawn)" in report(replace(RESULT, drawn=True))
    assert "overfitting" not in text
    assert "\n  overfitting: the error is 5.00% on the training" in report(replace(RESULT, top1_error=0.3))
    assert max(len(line) for line in text.splitlines()) <= 130
    options = re.findall(r"([a-z]+\.[a-z]+)=", text)
    assert config.load([workflow.CONFIG], []).origins.keys() >= set(options)


@given(training=st.floats(0, 1), held_out=st.floats(0, 1), images=st.integers(1, 100_000))
def test_overfitting_is_a_gap_that_neither_the_recipe_nor_chance_explains(
    training: float, held_out: float, images: int
) -> None:
    said = overfitting_note(training, held_out, images)
    if held_out - training <= 0.1:
        assert said == ""
    if said:
        assert overfitting_note(training, held_out, 10 * images) == said
        assert overfitting_note(held_out - 0.09, held_out, images) == ""
    assert overfitting_note(0.85 * training, 0.85 * training + 0.15, 10_000) != ""


def test_a_few_held_out_images_do_not_show_overfitting() -> None:
    assert overfitting_note(0.3, 0.5, 20) == ""
    assert overfitting_note(0.3, 0.5, 200) != ""


@pytest.mark.parametrize(
    ("code", "exit_code"), [("raise SystemExit(2)", 2), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_a_failed_step_ends_the_demo_with_its_exit_code(
    code: str, exit_code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        workflow.run_step("pack", ["-c", f"print('its output', flush=True); {code}"], capture=True)
    assert raised.value.code == exit_code
    error = capfd.readouterr().err
    assert "its output" in error
    assert f"step pack failed with exit code {exit_code}; its output is above" in error
    assert f"  {sys.executable} -c " in error


def test_outside_a_checkout_the_demo_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workflow, "CONFIG", tmp_path / "configs" / "demo.yaml")
    with pytest.raises(UserError, match=r"demo\.yaml: not found; the demo needs a checkout: git clone"):
        main(["--run", str(tmp_path / "run")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", ["nothing", "empty", "wrong"])
def test_a_folder_without_images_costs_an_earlier_demo_nothing(tmp_path: Path, data: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "it's #1.txt").write_text("no image")
    earlier = {"demo": "config.yaml", "demo-data": "kept"}
    for folder, file in earlier.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((UserError, SystemExit)) as ended:
        main(["--run", str(tmp_path / "demo"), "--data", str(tmp_path / data)])
    assert getattr(ended.value, "code", 2) == 2
    assert sorted(tmp_path.rglob("*")) == before
