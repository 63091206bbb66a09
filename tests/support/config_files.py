"""Configuration files for tests, and the errors reported for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from alexnet_dist.config import load
from alexnet_dist.errors import UserError


def write(text: str, name: str = "x.yaml") -> Path:
    """Write a file into the working directory and return its relative path, as messages name it."""
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


def problems(files: Sequence[Path], overrides: Sequence[str]) -> list[str]:
    """Return the lines of the error report for these files and overrides, without its heading."""
    with pytest.raises(UserError) as caught:
        load(files, overrides)
    first, *rest = str(caught.value).split("\n")
    assert not rest or first == f"{len(rest)} problems in the configuration:"
    return rest or [first]
