"""The configuration as YAML: it loads as an equal Config, other parsers agree, and origins are printed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alexnet_dist import config
from alexnet_dist.config import Config, keys, load
from alexnet_dist.nn.geometry import PAPER_LAYERS
from support.config_files import write

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "data.root": NAMES | st.sampled_from(["1e-2", "no", "0x10", "1:30", "~", "a: b", "a #b", "- x", "é", "=", "<<"]),
    "data.global_batch": st.integers(1, 10**6),
    "data.crop": st.integers(170, 300),
    "data.flip": st.booleans(),
    "optim.learning_rate": st.floats(1e-12, 1e12, exclude_min=True),
    "optim.drop_epochs": st.lists(st.floats(1e-3, 1e3), unique=True).map(lambda drops: tuple(sorted(drops))),
    "run.steps": st.none() | st.integers(1),
    "run.seed": st.integers(0, 2**63 - 1),
    "metrics.port": st.none() | st.integers(0, 65535),
    "model.activation": st.sampled_from(["relu", "tanh"]),
    "model.norm.alpha": st.floats(0, 1),
    "model.layers.conv3": st.none(),
    "model.layers.conv4": st.none() | st.just({}),
    "model.layers.conv5.init_std": st.floats(0, 1) | st.just("he"),
    "model.layers.conv5.pool": st.none() | st.tuples(st.integers(2, 3), st.integers(1, 2)),
    "model.layers.conv6": st.just({}),
    "model.layers.fc7.dropout": st.floats(0, 0.99),
}
CHANGES = st.fixed_dictionaries({"optim.schedule": st.just("epochs")}, optional=VALUES)


def build(changes: dict[str, Any]) -> Config:
    """Return the defaults with changes by dotted key; a new conv6 also gets channels and a kernel."""
    if "model.layers.conv6" in changes:
        changes = {**changes, "model.layers.conv6.channels": 4, "model.layers.conv6.kernel": 3}
    return Config.model_validate(keys.tree(changes))


def as_yaml(value: object) -> str:
    """Return a value as one line of YAML, written by PyYAML instead of our printer."""
    value = list(value) if isinstance(value, tuple) else value
    style = '"' if isinstance(value, str) else None
    return yaml.safe_dump(value, default_flow_style=True, default_style=style, width=1e9).removesuffix("...\n").rstrip()


@settings(max_examples=30, deadline=None)
@given(CHANGES)
@example({"optim.schedule": "epochs", "data.root": "1e-2"})
@example({"optim.schedule": "epochs", "data.root": "a\x85\U0001f600\n"})
def test_resolved_yaml_loads_as_the_same_configuration(tmp_path_factory: pytest.TempPathFactory, changes: Any) -> None:
    made = build(changes)
    path = tmp_path_factory.getbasetemp() / "resolved.yaml"
    path.write_text(config.to_yaml(made), encoding="utf-8")
    again = load([path], [])
    assert again.config == made
    assert config.to_yaml(again.config) == config.to_yaml(made)
    assert set(again.origins) == set(keys.flat(made))
    assert "default" not in again.origins.values()
    path.write_text(config.print_config(again), encoding="utf-8")
    assert load([path], []).config == made


@settings(max_examples=30, deadline=None)
@given(CHANGES, CHANGES)
def test_files_merge_as_their_changes_do(tmp_path_factory: pytest.TempPathFactory, left: Any, right: Any) -> None:
    files = []
    for name, changes in (("left.yaml", left), ("right.yaml", right)):
        # Removed and changed layers are tested in test_config.py.
        lines = [f"{key}: {as_yaml(value)}\n" for key, value in changes.items() if not key.startswith("model.layers")]
        files.append(tmp_path_factory.getbasetemp() / name)
        files[-1].write_text("".join(lines), encoding="utf-8")
    merged = {key: value for key, value in (left | right).items() if not key.startswith("model.layers")}
    assert load(files, []).config == build(merged)


def test_other_readers_of_yaml_read_the_same_values() -> None:
    made = load([], ["optim.learning_rate=1e-5", "model.layers.conv4=null", "data.root='1e-2'"]).config
    read = yaml.safe_load(config.to_yaml(made))
    assert read["optim"]["learning_rate"] == 1e-5
    assert read["model"]["layers"]["conv4"] is None
    assert read["model"]["layers"]["conv1"] == {**dataclasses.asdict(PAPER_LAYERS["conv1"]), "pool": [3, 2]}
    assert read["data"]["root"] == "1e-2"


def test_print_config_says_where_each_value_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write("model:\n  norm: {k: 1}\n  layers:\n    conv1: {channels: 64,\n      stride: 2}\n    conv4: null\n")
    text = config.print_config(load([path], ["run.seed=3", "model.norm.alpha=1e-3"]))
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    comments = {name: line.partition("  # ")[2] for name, line in lines.items()}
    assert comments["seed"] == "command line"
    assert comments["keep"] == "default"
    assert comments["norm"] == "alpha: command line; k: x.yaml:2; the rest default"
    assert comments["conv1"] == "channels: x.yaml:4; stride: x.yaml:5; the rest default"
    assert comments["conv4"] == "x.yaml:6"
    assert comments["model"] == ""
    assert len({line.index("  # ") for name, line in lines.items() if name in ("seed", "keep", "norm")}) == 1
    assert len({line.index("  # ") for name, line in lines.items() if name.startswith(("conv", "fc"))}) == 1
    assert list(yaml.safe_load(text)["model"]["layers"]) == list(PAPER_LAYERS)
