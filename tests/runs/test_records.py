"""Records of a run on a disk that fills up and gets room again."""

from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import pytest

from alexnet_dist.errors import PermanentError
from alexnet_dist.runs import records
from alexnet_dist.runs.directory import read_lines
from alexnet_dist.runs.records import Records, append_whole


def test_lines_wait_for_room_and_stay_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Records(tmp_path)
    assert kept.append("a.jsonl", {"step": 1}) == ""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(records, "append_whole", full)
        for step in (2, 3):
            assert kept.append("a.jsonl", {"step": step}) == f"{tmp_path}/a.jsonl: No space left on device"
        assert kept.append("b.jsonl", {"step": 3}) != ""
        assert kept.waiting == 3
        assert kept.flush_all() != ""
    assert kept.append("a.jsonl", {"step": 4}) == ""
    assert kept.waiting == 1
    assert kept.flush_all() == ""
    assert [line["step"] for line in read_lines(tmp_path / "a.jsonl")] == [1, 2, 3, 4]
    assert read_lines(tmp_path / "b.jsonl") == [{"step": 3}]


def test_what_does_not_fit_is_not_written_in_part(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        append_whole(Path("/dev/full"), b"line\n")
    path = tmp_path / "a.jsonl"
    append_whole(path, b"first\n")
    child = os.fork()
    if child == 0:  # no file of this process may be larger than ten bytes
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        try:
            append_whole(path, b"second\n")
        except OSError as error:
            os._exit(error.errno or 0)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EFBIG
    assert path.read_bytes() == b"first\n"
    append_whole(path, b"second\n")
    assert path.read_bytes() == b"first\nsecond\n"


def test_a_removed_directory_ends_the_run_for_good(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"gone: removed while it was in use"):
        Records(tmp_path / "gone").append("a.jsonl", {})


def test_a_record_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "elsewhere")
    assert "symbolic links" in Records(tmp_path).append("a.jsonl", {"step": 1})
    assert not (tmp_path / "elsewhere").exists()


def test_evaluations_are_on_the_disk_before_a_manifest_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    written = records.Records(tmp_path)
    assert written.append("metrics.jsonl", {"step": 1}) == ""
    assert synced == []
    assert written.append("evaluations.jsonl", {"step": 1}) == ""
    assert synced == [len('{"step": 1}\n')]
