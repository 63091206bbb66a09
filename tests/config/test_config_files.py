"""The files of configs/: each opens with what it is for and a command that loads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alexnet_dist import config
from alexnet_dist.config import load

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def header_of(path: Path) -> str:
    """Return the comment with which a file begins, on one line."""
    lines = path.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return " ".join(" ".join(line.lstrip("#") for line in lines).replace("\\", " ").split())


def files_of_its_command(path: Path) -> list[Path]:
    """Return the files that the command in a file's header merges: the file's own comes last."""
    command = header_of(path).partition("launch/train.py ")[2]
    files = re.match(r"(?:--config (\S+) )*--config (\S+)", command)
    assert files is not None
    names = re.findall(r"--config (?:configs/)?(\S+?)(?:\.yaml)?(?= |$)", files[0])
    return [ROOT / "configs" / f"{name}.yaml" for name in names]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_opens_with_a_command_that_loads_it(path: Path) -> None:
    *bases, own = files_of_its_command(path)
    assert own == path
    config.load([*bases, own], [])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_the_packed_size_of_which_its_crop_is_seven_eighths(path: Path) -> None:
    (size,) = re.findall(r"[Pp]acked with --size (\d+)", header_of(path))
    crop = load(files_of_its_command(path), []).config.data.crop
    assert int(size) * 7 == crop * 8 or (path.stem, int(size)) == ("figure1", crop)  # whole images


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.parent.name in ("ablations", "variants")])
def test_ablations_and_variants_are_short(path: Path) -> None:
    assert path.stem == "large_batch" or len(path.read_text(encoding="utf-8").splitlines()) <= 10
