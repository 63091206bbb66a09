"""A small source that several tests of pack only read, and what it is packed into."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist.pack.packing import pack
from support.folders import request, write_folder


@pytest.fixture(name="source", scope="session")
def source_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 28 images in three classes, with two files that are not images."""
    folder = write_folder(tmp_path_factory.mktemp("source"), {"a": 11, "b": 9, "c": 8})
    (folder / "a" / "README.txt").write_text("read me")
    (folder / "b" / ".hidden").write_text("")
    return folder


@pytest.fixture(name="reference", scope="session")
def reference_fixture(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shards that one process packs from the source in one run."""
    out = tmp_path_factory.mktemp("reference")
    pack(request(source, out))
    return out
