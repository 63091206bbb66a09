"""Progress: a line at most every 30 s where stderr is no terminal, a bar where it is one; stdout stays empty."""

from __future__ import annotations

import io
import sys

import pytest

from alexnet_dist.runs.progress import Progress, progress_line


class Terminal(io.StringIO):
    """A stderr that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("done", "elapsed_s", "line"),
    [
        (12_300, 300.0, "val: 12,300 of 50,000 images, 41 images/s, 15:19 left"),
        (100, 40.0, "val: 100 of 50,000 images, 2.5 images/s, 5:32:40 left"),
    ],
)
def test_a_line_has_images_speed_and_time_left(done: int, elapsed_s: float, line: str) -> None:
    assert progress_line("val", done, 50_000, elapsed_s) == line


def test_a_line_is_written_at_most_every_30_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("alexnet_dist.runs.progress.time.monotonic", lambda: now_s)
    with Progress("test", 100) as shown:
        for _ in range(10):
            now_s += 13
            shown.add(10)
    output, error = capsys.readouterr()
    assert output == ""
    assert error.splitlines() == [
        "test: 30 of 100 images, 0.769 images/s, 01:31 left",
        "test: 60 of 100 images, 0.769 images/s, 00:52 left",
        "test: 90 of 100 images, 0.769 images/s, 00:13 left",
    ]


def test_a_bar_ends_full_and_need_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("val", 8, keep=False) as shown:
        for _ in range(3):
            shown.add(3)
        assert shown._bar is not None
        assert shown._bar.n == 8
    assert terminal.getvalue().endswith("\r")  # cleared


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("val", 8) as shown:
        shown.add(8)
    assert "val: 100%" in terminal.getvalue()
    assert "8/8" in terminal.getvalue()
    assert capsys.readouterr().out == ""
