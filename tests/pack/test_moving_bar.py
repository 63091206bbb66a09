"""Pack's bar moves within a shard, and leaves nothing behind."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_dist.pack import moving_bar as bars
from alexnet_dist.pack.moving_bar import moving_bar, note_done

NOTE = "import sys; from pathlib import Path; from alexnet_dist.pack.moving_bar import note_done; "


def shown_within(terminal: io.StringIO, text: str, limit_s: float = 10.0) -> bool:
    end_s = time.monotonic() + limit_s
    while text not in terminal.getvalue() and time.monotonic() < end_s:
        time.sleep(0.01)
    return text in terminal.getvalue()


def test_the_bar_counts_files_of_shards_in_progress_in_any_process(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(bars, "EVERY_S", 0.01)
    with moving_bar("train", files=40, shards=3) as counts:
        note_done(counts, 1, 7)
        assert shown_within(terminal, "7/40")
        code = f"{NOTE}note_done(Path(sys.argv[1]), 2, 13)"
        subprocess.run([sys.executable, "-c", code, str(counts)], check=True, timeout=60)
        note_done(counts, 1, 9)
        assert shown_within(terminal, "22/40")
        note_done(counts, 0, 18)
    assert "40/40" in terminal.getvalue()
    assert not counts.exists()


def test_without_a_bar_nothing_is_noted(tmp_path: Path) -> None:
    note_done(None, 0, 7)
    note_done(tmp_path / "counts", 0, 7)  # what ends no packing
    assert not list(tmp_path.iterdir())
