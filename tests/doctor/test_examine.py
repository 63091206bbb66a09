"""What ends an examination before its checks begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist.doctor import examine
from support.runs import context, settings


def test_a_password_that_cannot_be_read_fails_before_the_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(f"metrics.password_file={tmp_path}/none", f"run.directory={tmp_path}")
    monkeypatch.setattr(examine, "set_precision", lambda *_: None)  # of this process
    monkeypatch.setattr(examine, "open_run", lambda config, _launched: context(config))
    monkeypatch.setattr(examine, "check_cache_room", lambda _run: None)
    found = examine.examine(config)
    assert found is not None
    (finding,) = found
    assert finding.level == "fail"
    assert "metrics.password_file" in finding.found + finding.advice
