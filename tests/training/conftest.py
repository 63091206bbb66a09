"""Runs with which several files compare theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.ranks import Ranks
from support.training import DETERMINISTIC, settings, train_here


@pytest.fixture(scope="session")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Ranks) -> Path:
    """Make a deterministic run of 2 x 2 ranks to its end."""
    directory = tmp_path_factory.mktemp("runs") / "undisturbed"
    words = settings(shards, directory, *DETERMINISTIC)
    run_ranks(4, train_here, [Path(words[1])], words[2:])
    return directory
