"""Every file, function, test, setting and section that PAPER.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alexnet_dist import config
from support.definitions import defined_in

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "PAPER.md").read_text(encoding="utf-8")
REFERENCES = sorted(set(re.findall(r"`([\w/.]+\.py):([\w.]+)`", TEXT)))
FILES = sorted(set(re.findall(r"`((?:alexnet_dist|configs|launch|tests)/[\w/.-]+)", TEXT)))
SETTINGS = sorted(set(re.findall(r"((?:data|model|optim|run|train)\.[\w.]+=[^\s`]+)", TEXT)))
CODE = ("alexnet_dist/", "tests/")


def test_there_is_something_to_check() -> None:
    for folder in CODE:
        assert sum(file.startswith(folder) for file, _ in REFERENCES) >= 30
    assert len(SETTINGS) >= 8


@pytest.mark.parametrize("file", sorted({file for file, _ in REFERENCES}))
def test_every_name_is_defined_in_its_file(file: str) -> None:
    assert file.startswith(CODE)
    missing = {name for path, name in REFERENCES if path == file} - defined_in(file)
    assert not missing, f"PAPER.md names what {file} does not define: {sorted(missing)}"


def test_every_file_exists() -> None:
    assert [file for file in FILES if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_is_one(setting: str) -> None:
    overrides = ["optim.schedule=epochs", setting] if setting.startswith("optim.drop_epochs=") else [setting]
    config.load([], overrides)


def test_every_remark_that_is_pointed_to_is_there() -> None:
    remarks = set(re.findall(r"^\| (S\d+) \|", TEXT, re.MULTILINE))
    assert remarks == {f"S{number}" for number in range(1, len(remarks) + 1)}
    assert set(re.findall(r"\bS\d+\b", TEXT)) == remarks
    headings = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= anchors
