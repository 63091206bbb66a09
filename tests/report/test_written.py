"""The report that a run writes at its end: it is there, holds nothing up, and its failure is a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist import train as command
from alexnet_dist.report import written
from alexnet_dist.report.written import write_at_end
from alexnet_dist.training import train as training
from support.histories import write_recorded_run
from support.ranks import Ranks
from support.training import settings


def test_a_finished_run_has_a_report_with_the_sources_of_its_values(
    shards: Path, tmp_path: Path, run_ranks: Ranks
) -> None:
    run = tmp_path / "my run"
    words = settings(shards, run, "run.report=true", "run.steps=2")
    run_ranks(2, command.main, words)
    text = (run / "report.html").read_text()
    assert "run.steps" in text
    assert ">command line<" in text
    assert "tiny.yaml:" in text
    assert text.count('class="kernels"') == 2
    assert f"without images; python -m alexnet_dist.report &#x27;{run}&#x27; adds them" in text


@pytest.mark.parametrize(
    ("finished", "words", "rank", "is_written"),
    [
        (True, [], "0", True),
        (False, [], "0", False),  # it was stopped, or had been finished before
        (True, ["run.report=false"], "0", False),
        (True, [], "1", False),
    ],
)
def test_rank_0_writes_it_after_the_end(
    finished: bool, words: list[str], rank: str, is_written: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(training, "train", lambda *_: finished)
    monkeypatch.setattr(written, "write_at_end", asked.append)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    command.main([f"run.directory={tmp_path}", *words])
    assert asked == ([tmp_path] if is_written else [])


def test_a_failure_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_recorded_run(tmp_path)

    def fail(*_: object) -> str:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(written, "file_page", fail)
    write_at_end(directory)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"warning: report.html is not written: a bug; python -m alexnet_dist.report {directory} tries again\n"
    )
    assert not (directory / "report.html").exists()
