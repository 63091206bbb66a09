"""Named configurations: `--config NAME` loads a file of configs/ from any directory, also from an installed wheel."""

from __future__ import annotations

import argparse
import importlib.resources
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from alexnet_dist import config
from alexnet_dist.config import load, named
from support.config_files import problems, write

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "configs").rglob("*.yaml")
# Of folders, an error has the number of files.
FOLDERS = ", ".join(
    f"{name}/* ({len(list((ROOT / 'configs' / name).glob('*.yaml')))})"
    for name in ("ablations", "ablations/cifar10", "variants")
)
NAMES = sorted(path.relative_to(ROOT / "configs").as_posix().removesuffix(".yaml") for path in FILES)


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_file_of_configs_has_a_name() -> None:
    assert named.names() == NAMES
    assert {"paper", "source2012", "variants/large_batch"} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_loads_the_file_of_configs(name: str) -> None:
    loaded = load([Path(name)], [])
    assert loaded.config == load([ROOT / "configs" / f"{name}.yaml"], []).config
    origin, _, line = loaded.origins["run.directory"].partition(":")
    assert origin == name
    text = (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    assert "directory: " in text.splitlines()[int(line) - 1]


def test_names_and_files_merge_in_the_order_of_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    config.add_config_arguments(parser)
    path = write("run: {directory: runs/mine}\n")

    def directory(*arguments: str) -> str:
        return config.from_arguments(parser.parse_intermixed_args(arguments)).config.run.directory

    assert directory("--config", "one_gpu", "--config", str(path)) == "runs/mine"
    assert directory("--config", str(path), "--config", "one_gpu") == "runs/one_gpu"
    assert directory("--config", "one_gpu", "run.directory=runs/other") == "runs/other"
    assert all(name in parser.format_help() for name in NAMES[:-1])


def test_a_file_of_that_name_takes_precedence_and_a_directory_does_not() -> None:
    Path("demo").mkdir()
    assert load([Path("demo")], []).config.run.directory == "runs/demo"
    path = write("run: {directory: runs/mine}\n", "paper")
    assert load([path], []).config.run.directory == "runs/mine"


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("papr", "; did you mean --config paper?"),
        ("large_batch", "; did you mean --config variants/large_batch?"),
        ("configs/demo", "; did you mean --config demo?"),
        ("../configs/zzz", ""),
        ("zzz", ""),
    ],
)
def test_an_unknown_name_is_rejected_with_the_known_ones(path: str, suggestion: str) -> None:
    assert problems([Path(path)], []) == [
        f"{path}: no such file; expected a YAML file or a named configuration: cifar10, demo, figure1, one_gpu,"
        f" one_gpu_fast, paper, source2012, source2013_hands_off, {FOLDERS}{suggestion}"
    ]


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("configs/paper.yaml", "; did you mean --config paper?"),
        ("configs/variants/large_batch.yml", "; did you mean --config variants/large_batch?"),
        ("paper.yaml", "; did you mean --config paper?"),
        ("zzz.yaml", ""),
    ],
)
def test_a_path_with_a_yaml_suffix_is_never_a_name(path: str, suggestion: str) -> None:
    assert problems([Path(path)], []) == [
        f"{path}: expected a YAML file, but it cannot be read: No such file or directory{suggestion}"
    ]


def test_the_package_data_covers_every_named_configuration() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (pattern,) = pyproject["tool"]["setuptools"]["package-data"]["alexnet_dist.config"]
    package = Path(str(importlib.resources.files("alexnet_dist.config")))
    assert {path.resolve() for path in package.glob(pattern)} == {
        path.resolve() for path in named.FOLDER.rglob("*.yaml")
    }
    assert len(list(package.glob(pattern))) == len(NAMES)


def test_a_built_wheel_contains_the_named_configurations(tmp_path: Path) -> None:
    """Build the Python part of a wheel with setuptools, without network access, and load from a copy of it."""
    pytest.importorskip("setuptools", minversion="77")
    source, built = tmp_path / "source", tmp_path / "built"
    source.mkdir()
    for name in ("alexnet_dist", "configs", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "-c", "from setuptools import setup; setup()", "build_py", "--build-lib", str(built)]
    subprocess.run(command, cwd=source, capture_output=True, check=True)
    code = "import sys; from alexnet_dist.config import named; print(named.__file__, *named.names())"
    done = subprocess.run([sys.executable, "-c", code], cwd=built, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(built / "alexnet_dist" / "config" / "named.py"), *NAMES]
    assert not (built / "alexnet_dist" / "config" / "configs").is_symlink()
