"""The report command: what stands in its file, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alexnet_dist.errors import UserError, run_command
from alexnet_dist.report.__main__ import main
from alexnet_dist.runs.directory import METRICS, POST_MORTEM
from support.histories import write_held_out, write_recorded_run
from support.runs import write_run

MARKUP = "<b onmouseover=alert(1)>"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_held_out(tmp_path_factory.mktemp("held-out"))


def test_the_report_of_a_run_has_its_numbers(tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_recorded_run(tmp_path)
    main([str(directory), "--data", str(shards)])
    assert capsys.readouterr().out == f"{directory}/report.html\n"
    text = (directory / "report.html").read_text()
    plain = re.sub(r"<[^>]*>", " ", text)
    for expected in (
        "4.00 of 90",
        "0.0150",
        "12.50 %",
        "6.25 %",
        "25.0 %",
        "step 200",
        "8 images of the validation split",
    ):
        assert expected in plain
    assert len(re.findall(r'<img class="kernels" src="data:image/png', text)) == 2
    assert text.count('class="guess') == 8 * 5
    assert "40.7 %" in plain
    assert "no: the run was trained on other images" in plain


def test_nothing_is_asked_of_another_place(tmp_path: Path, shards: Path) -> None:
    main([str(write_recorded_run(tmp_path)), "--data", str(shards)])
    text = (tmp_path / "run" / "report.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|@import|<script", text)
    assert "default-src 'none'" in text


def test_several_runs_are_drawn_on_the_same_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [str(write_recorded_run(tmp_path / name)) for name in ("a", "b")]
    main([*runs, "--out", "deep/both.html"])
    text = Path("deep/both.html").read_text()
    assert "<h1>2 runs</h1>" in text
    assert all(text.count(run) >= 3 for run in runs)
    assert {f'polyline class="c{colour}"' in text for colour in (0, 1)} == {True}
    assert "No predictions: no shards of val in" in text
    with pytest.raises(UserError, match="2 runs without --out; expected --out FILE"):
        main(runs)


def test_a_run_that_has_logged_nothing_has_a_report(tmp_path: Path) -> None:
    directory, _ = write_run(tmp_path, ())
    main([str(directory)])
    text = (directory / "report.html").read_text()
    assert text.count("Nothing is recorded yet.") == 3
    assert "no step logged yet" in text
    assert text.count("no checkpoint yet") == 3
    assert "No run has been evaluated yet." in text


def test_markup_in_names_and_records_is_text(tmp_path: Path) -> None:
    directory = write_recorded_run(tmp_path).rename(tmp_path / MARKUP)
    (directory / POST_MORTEM).write_text(f"rank 3: {MARKUP}\n")
    manifest = json.loads((directory / "train.manifest.json").read_text())
    for described in manifest["classes"]:
        described["name"] = f"{MARKUP} {described['name']}"
    (directory / "train.manifest.json").write_text(json.dumps(manifest))
    main([str(directory)])
    text = (directory / "report.html").read_text()
    assert MARKUP not in text
    assert text.count("&lt;b onmouseover=alert(1)&gt;") >= 3


def test_a_name_that_is_not_utf8_is_written(tmp_path: Path) -> None:
    directory = write_recorded_run(tmp_path).rename(tmp_path / "caf\udce9")
    assert run_command(main, [str(directory)]) == 0
    assert "caf\\udce9" in (directory / "report.html").read_text("utf-8")


def test_shards_of_another_set_give_a_reason(tmp_path: Path, shards: Path) -> None:
    directory = write_recorded_run(tmp_path)
    (directory / "train.manifest.json").write_text(
        (directory / "train.manifest.json").read_text().replace('"class-0"', '"another"')
    )
    main([str(directory), "--data", str(shards)])
    assert "pass the shards packed with its training set as --data" in (directory / "report.html").read_text()


def test_a_broken_record_ends_the_command(tmp_path: Path) -> None:
    directory = write_recorded_run(tmp_path)
    (directory / METRICS).write_text("[]\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:1: .* is not a JSON object; remove the line"):
        main([str(directory)])
    assert not (directory / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--port", "0"], "--port: expected with --live alone"),
        (["--live", "--out", "x.html"], "--live: expected without --out and --data"),
        (["--live", "--data", "shards"], "--live: expected without --out and --data"),
        (["--out", "/dev/null/x.html"], r"/dev/null/x\.html: cannot be written: .*; choose another file with --out"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        main([str(write_recorded_run(tmp_path)), *arguments])
