"""Scheduled changes in the configuration: how they are written, printed, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist.config import Event, load, print_config, to_yaml
from support.config_files import problems, write

EPOCHS = "optim.schedule=epochs"


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_events_are_data_of_the_configuration() -> None:
    loaded = load([Path("source2012")], [])
    first, *_, last = loaded.config.run.events
    assert first == Event(epoch=25, learning_rate=0.001)
    assert last == Event(epoch=79, learning_rate=0.00001)
    printed = print_config(loaded)
    assert "  events:" in printed
    assert "    - {epoch: 67.0, layer_learning_rates: {conv1: 1.0e-05}, colour_noise: 0.0}\n" in printed
    for text in (printed, to_yaml(loaded.config)):
        assert load([write(text)], []).config == loaded.config


def test_an_override_replaces_all_events() -> None:
    moved = load([Path("source2012")], ["run.events=[{epoch: 0.5, colour_noise: 0}]"]).config
    assert moved.run.events == (Event(epoch=0.5, colour_noise=0.0),)
    assert load([Path("source2012")], ["run.events=[]"]).config.run.events == ()


EVENT = (
    "a list of mappings with epoch (a number above 0), learning_rate (a number of at least 0, or null),"
    " bias_learning_rate (a number of at least 0, or null), layer_learning_rates (a mapping of names to numbers of at"
    " least 0), colour_noise (a number of at least 0, or null)"
)


@pytest.mark.parametrize(
    "event",
    ["{epoch: 0, colour_noise: 0}", "{colour_noise: 0}", "{epoch: 1, noise: 0}", "{epoch: 1, colour_noise: -1}", "3"],
)
def test_what_is_no_event(event: str) -> None:
    (problem,) = problems([], [f"run.events=[{event}]"])
    assert problem.startswith("command line: run.events = [")
    assert problem.endswith(f": expected {EVENT}")


@pytest.mark.parametrize(
    ("words", "report"),
    [
        (["run.events=[{epoch: 3}]"], "run.events: epoch 3: changes nothing; expected one of learning_rate,"),
        (
            ["run.events=[{epoch: 3, colour_noise: 0}, {epoch: 3, colour_noise: 1}]"],
            "run.events: epoch 3 after epoch 3; expected increasing numbers",
        ),
        (
            ["run.events=[{epoch: 3, learning_rate: 0.1}]"],
            "run.events: epoch 3: sets the learning rate, and so does optim.schedule = plateau; expected",
        ),
        (
            [EPOCHS, "optim.drop_epochs=[5]", "run.events=[{epoch: 3, learning_rate: 0.1}]"],
            "run.events: epoch 3: sets the learning rate, and so does optim.drop_epochs; expected",
        ),
        (
            ["run.events=[{epoch: 3, layer_learning_rates: {conv9: 0}}]"],
            "run.events: epoch 3: layer_learning_rates: there is no layer conv9; expected one of conv1, conv2,",
        ),
        (
            ["optim.warmup_epochs=4", "run.events=[{epoch: 3, colour_noise: 0}]"],
            "run.events: epoch 3: expected at least optim.warmup_epochs = 4: changes follow the warm-up",
        ),
        (["optim.layer_learning_rates={fc9: 1}"], "optim.layer_learning_rates: there is no layer fc9; expected one of"),
        (
            ["optim.bias_learning_rate=0.1", "optim.bias_learning_rate_factor=2"],
            "optim.bias_learning_rate = 0.1: expected null with optim.bias_learning_rate_factor = 2: both set",
        ),
        (["model.spatial_norm.size=4"], "model.spatial_norm.size = 4: expected an odd number: the window is centred"),
        (["model.towers=3"], "model.towers = 3: expected an integer of at least 1 and at most 2"),
        (["model.towers=true"], "model.towers = true: expected an integer of at least 1 and at most 2"),
        (["model.layers.fc6.spatial_norm=true"], "model.layers.fc6.spatial_norm: true; expected false: only conv"),
    ],
)
def test_contradictions(words: list[str], report: str) -> None:
    (problem,) = problems([], words)
    assert report in problem
