"""The configuration: its defaults and files, the merging of sources, and the errors for conflicting values."""

from __future__ import annotations

import argparse
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alexnet_dist import config
from alexnet_dist.config import Config, keys, load
from alexnet_dist.nn.geometry import PAPER_LAYERS, Geometry, Layer, Norm
from support.config_files import problems, write

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# The defaults and the files of the repository.


def test_the_defaults_are_paper_yaml() -> None:
    assert load([ROOT / "configs" / "paper.yaml"], []).config == Config() == load([], []).config
    assert config.geometry(Config()) == Geometry()


def test_paper_yaml_says_every_value_but_the_plain_ones_of_rows() -> None:
    origins = load([ROOT / "configs" / "paper.yaml"], []).origins
    unset = {key for key, origin in origins.items() if origin == "default"}
    layer_defaults = dataclasses.asdict(Layer())
    values = keys.flat(Config())
    assert all(keys.layer_key(key) and values[key] == layer_defaults[key.rpartition(".")[2]] for key in unset)


def test_small_files_differ_as_they_say() -> None:
    cifar = load([ROOT / "configs" / "cifar10.yaml"], []).config
    assert cifar.optim.drop_epochs == pytest.approx((0.6 * cifar.run.epochs, 0.9 * cifar.run.epochs))
    assert {layer.init_std for layer in cifar.model.layers.values()} == {"he"}
    assert {layer.init_bias for layer in cifar.model.layers.values()} == {0.0}
    one_gpu = load([ROOT / "configs" / "one_gpu.yaml"], []).config
    assert one_gpu.model == Config().model
    assert one_gpu.topology.layout == "fused"
    large = load([ROOT / "configs" / "variants" / "large_batch.yaml"], []).config
    assert large.model == Config().model
    assert large.optim.reference_batch == Config().data.global_batch
    scaled = large.optim.learning_rate * large.data.global_batch / Config().data.global_batch
    assert scaled * large.optim.trust_coefficient == pytest.approx(
        10 * 0.001, rel=0.01
    )  # as the comment in the file says


def test_every_key_is_described() -> None:
    undescribed = [
        f"{section}.{name}"
        for section, info in Config.model_fields.items()
        for name, field in getattr(info.annotation, "model_fields").items()  # noqa: B009  # Any, for mypy
        if not (field.description or "").endswith(".")
    ]
    assert undescribed == []
    undescribed = [
        field.name
        for block in (Layer, Norm)
        for field in dataclasses.fields(block)
        if field.name not in (block.__doc__ or "")
    ]
    assert set(undescribed) <= {"padding"}  # of a convolution, with the usual meaning


def test_every_number_has_a_range() -> None:
    phrases = {key: keys.expected(key) for key in keys.KEY_SPECS}
    starts = ("an integer", "a number", "a list of n", "a list of 2", "a list of m")
    numbers = {key: text for key, text in phrases.items() if text.startswith(starts)}
    assert len(numbers) > 80
    unbounded = {key for key, text in numbers.items() if "at least" not in text and "above" not in text}
    assert unbounded == {f"model.layers.{name}.init_bias" for name in PAPER_LAYERS}


def test_it_is_frozen_and_can_be_sent_to_another_process() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().run.seed = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(Config())) == Config()


def test_python_callers_are_checked_too() -> None:
    invalid: list[dict[str, Any]] = [
        {"data": {"global_batch": "3"}},
        {"data": {"size": 3}},
        {"model": {"norm": Norm(size=True)}},
        {"model": {"layers": {**PAPER_LAYERS, "conv1": Layer(channels=96, kernel=11, stride=0)}}},
        {"model": {"layers": {**PAPER_LAYERS, "conv1": Layer(channels=96, kernel=11, pool=(3, 2, 1))}}},  # type: ignore[arg-type]
        {"model": {"layers": {**PAPER_LAYERS, "conv1": Layer(channels=95, kernel=11)}}},
        {"data": {"global_batch": 3}, "train": {"accumulate": 4}},
    ]
    for tree in invalid:
        with pytest.raises(ValidationError):
            Config.model_validate(tree)


def test_importing_it_does_not_import_torch_or_numpy() -> None:
    code = "import sys, alexnet_dist.config; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


# Merging.


def test_files_merge_left_to_right_and_then_the_command_line() -> None:
    first = write("optim:\n  momentum: 0.5\n  weight_decay: 0.1\n  learning_rate: 1\n", "first.yaml")
    second = write("# a comment\noptim: {momentum: 0.6,\n        weight_decay: 0.2}\n", "second.yaml")
    loaded = load([first, second], ["optim.momentum=0.7", "optim.momentum=0.8"])
    optim, origins = loaded.config.optim, loaded.origins
    assert (optim.learning_rate, optim.weight_decay, optim.momentum) == (1.0, 0.2, 0.8)
    assert origins["optim.learning_rate"] == "first.yaml:4"
    assert origins["optim.weight_decay"] == "second.yaml:3"
    assert origins["optim.momentum"] == "command line"
    assert origins["optim.patience"] == "default"
    swapped = load([second, first], []).config.optim
    assert (swapped.momentum, swapped.weight_decay) == (0.5, 0.1)


def test_rows_of_layers_lie_over_the_papers_rows() -> None:
    path = write("model:\n  layers:\n    conv4: {kernel: 5, padding: 2}\n    conv6: {channels: 10, kernel: 3}\n")
    loaded = load([path], ["model.layers.conv6.padding=1"])
    layers = loaded.config.model.layers
    assert layers["conv4"] == dataclasses.replace(PAPER_LAYERS["conv4"], kernel=5, padding=2)
    assert layers["conv6"] == Layer(channels=10, kernel=3, padding=1)
    assert {**layers, "conv4": None, "conv6": None} == {**PAPER_LAYERS, "conv4": None, "conv6": None}
    assert loaded.origins["model.layers.conv4.kernel"] == "x.yaml:3"
    assert loaded.origins["model.layers.conv4.channels"] == "default"
    assert list(config.geometry(loaded.config).layers) == [
        "conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7", "fc8",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "again", ["model.layers.conv4={}", "model.layers.conv4.kernel=3", "model={layers: {conv4: {}}}"]
)
def test_null_removes_a_layer_until_it_is_named_again(again: str) -> None:
    removed = write("model:\n  layers:\n    conv4: null\n")
    changed = write("model:\n  layers:\n    conv4: {channels: 2}\n", "changed.yaml")
    loaded = load([changed, removed], [])
    assert set(PAPER_LAYERS) - set(loaded.config.model.layers) == {"conv4"}
    assert loaded.origins["model.layers.conv4"] == "x.yaml:3"
    assert load([changed, removed], [again]).config == Config()


def test_an_empty_file_and_dotted_keys_are_welcome() -> None:
    assert load([write("# nothing\n")], []).config == Config()
    dotted = load([write("optim.momentum: 0.5\nmodel.layers: {conv1.channels: 64}\n")], [])
    assert dotted.config.optim.momentum == 0.5
    assert dotted.config.model.layers["conv1"].channels == 64
    assert dotted.origins["model.layers.conv1.channels"] == "x.yaml:2"


# Values that are in range but conflict.


def test_contradictions_are_reported_where_they_were_given() -> None:
    path = write("data:\n  global_batch: 4\noptim:\n  drop_epochs: [3, 3]\nmodel:\n  norm: {size: 4}\n")
    assert problems([path], ["model.layers.conv4.channels=383", "train.accumulate=5"]) == [
        "command line: train.accumulate = 5: expected at most data.global_batch = 4: each micro-batch needs at least"
        " one image",
        "x.yaml:4: optim.drop_epochs = [3.0, 3.0]: expected increasing numbers",
        "x.yaml:4: optim.drop_epochs = [3.0, 3.0]: used only by optim.schedule = epochs; expected [] with plateau",
        "x.yaml:6: model.norm.size = 4: expected an odd number: the window is centred on a channel",
        "command line: model.layers.conv4.channels: 383; expected an even number, half for each tower",
    ]
    again = write("train: {accumulate: 9}\n", "again.yaml")
    assert problems([again], ["train.accumulate=200"])[0].startswith("command line: train.accumulate = 200")
    # The file alone is valid: the command line is named.
    assert problems([again], ["data.global_batch=4"])[0].startswith(
        "command line: data.global_batch = 4: with it, train.accumulate = 9: expected at most data.global_batch = 4"
    )
    assert problems([again, write("data: {global_batch: 4}\n")], [])[0].startswith("again.yaml:1: train.accumulate = 9")
    assert load([], ["data.global_batch=4", "train.accumulate=4"])
    schedule = ["optim.schedule=epochs", "optim.drop_epochs=[1, 1.5]"]
    assert load([], [*schedule, "optim.warmup_epochs=1"])
    assert problems([], [*schedule, "optim.warmup_epochs=1.25"]) == [
        "command line: optim.warmup_epochs = 1.25: expected at most 1, the first of optim.drop_epochs: the learning"
        " rate drops after the warm-up"
    ]


@pytest.mark.parametrize(
    ("overrides", "report"),
    [
        (["data.crop=3"], "command line: data.crop = 3: with it, model.layers.conv1: nothing of the 3-pixel image is"),
        (["model.layers.fc8.channels=7"], "command line: model.layers.fc8.channels: 7; expected null: the last"),
        (["model.layers.conv1.reads=both"], "command line: model.layers.conv1.reads: both; expected own: the first"),
        (["model.layers.conv9={}"], "command line: model.layers.conv9.kernel: 0; expected at least 1 in a"),
        (["data.global_batch=4", "train.accumulate=5"], "command line: train.accumulate = 5: expected at most"),
    ],
)
def test_what_no_net_can_be(overrides: list[str], report: str) -> None:
    (message,) = problems([], overrides)
    assert message.startswith(report)


def test_a_contradiction_that_a_reported_problem_may_have_caused_is_not_reported() -> None:
    assert len(problems([], ["data.globl_batch=200", "train.accumulate=200"])) == 1
    assert len(problems([], ["data.global_batch=many", "train.accumulate=200"])) == 1
    assert len(problems([], ["run.keep=0", "train.accumulate=200"])) == 2


@pytest.mark.parametrize(
    ("argument", "report"),
    [
        ("data.crop=3", "data.crop = 3: with it, model.layers.conv2: nothing of the 3-pixel image is left"),
        (
            "model.layers.conv33.channels=10",
            "model.layers.conv33.channels = 10: with this layer, which the paper's net does not have,"
            " model.layers.conv33.kernel: 0; expected at least 1",
        ),
        (
            "model.layers.fc9.dropout=0.5",
            "model.layers.fc9.dropout = 0.5: with this layer, which the paper's net does not have,"
            " model.layers.fc8.channels: None; expected an even number",
        ),
        ("model.layers.fc8=null", "model.layers.fc8 = null: with it, model.layers.fc7.channels: 256; expected null"),
        ("optim.schedule=plateau", "optim.schedule = 'plateau': with it, optim.drop_epochs = [9.6, 14.4]: used only"),
        (
            "modle.layers.fc8.channels=10",
            "modle.layers.fc8.channels = 10: unknown key; did you mean 'model.layers.fc8.",
        ),
    ],
)
def test_what_the_command_line_causes_is_not_blamed_on_a_line_of_the_file(argument: str, report: str) -> None:
    """cifar10.yaml sets the crop, the classes and every layer, and is valid without the argument."""
    (message,) = problems([Path("cifar10")], ["run.seed=1", argument, "run.keep=4"])
    assert message.startswith(f"command line: {report}")


def test_a_field_that_a_new_layer_lacks_is_reported_on_the_line_of_the_layer() -> None:
    path = write("data:\n  crop: 223\nmodel:\n  layers:\n    conv33: {channels: 10}\n")
    (message,) = problems([path], [])
    assert message.startswith("x.yaml:5: model.layers.conv33.kernel: 0; expected at least 1")


def test_a_misspelt_section_may_be_the_cause_of_any_contradiction() -> None:
    path = write("model: {layers: {fc8: {channels: 10}}}\n")
    assert problems([path], [])[0].startswith("x.yaml:1: model.layers.fc8.channels: 10; expected null")
    assert problems([path], ["modle.classes=10"]) == [
        "command line: modle.classes = 10: unknown key; did you mean 'model.classes'?"
    ]


# The command line.


def test_options_and_words_in_any_order() -> None:
    first, second = write("run: {seed: 1, keep: 4}\n", "first.yaml"), write("run: {seed: 2}\n", "second.yaml")
    parser = argparse.ArgumentParser()
    config.add_config_arguments(parser)
    arguments = ["--config", str(first), "run.log_every=5", "--config", str(second), "data.root=elsewhere"]
    loaded = config.from_arguments(parser.parse_intermixed_args(arguments)).config
    assert (loaded.run.seed, loaded.run.keep, loaded.run.log_every, loaded.data.root) == (2, 4, 5, "elsewhere")
    assert config.from_arguments(parser.parse_intermixed_args([])).config == Config()
