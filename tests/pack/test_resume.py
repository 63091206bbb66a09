"""A pack that is stopped at any moment and resumed ends with the same bytes, and damages no other files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.pack import output_folder, packing
from alexnet_dist.pack.output_folder import library_versions
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.records import load_record, records_folder
from support.folders import SIZE, contents, encoded, photo, request, write_folder
from support.layouts import WRITERS, draw_images


def source_in(source: Path, home: Path, layout: str) -> Path:
    """Return the folder of images, or a set of images in another layout."""
    return source if layout == "folder" else WRITERS[layout](home / "source", draw_images())


class StopError(Exception):
    """Simulates a kill."""


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_stopped_at_any_write_it_ends_with_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """The pack is stopped just before one of its fsyncs and renames, for every third of them."""
    source = source_in(source, tmp_path, layout)
    real_fsync, real_replace = os.fsync, Path.replace
    moments = 0

    def stop_at(moment: int) -> None:
        left = moment

        def before() -> None:
            nonlocal left, moments
            left -= 1
            moments += 1
            if left == 0:
                raise StopError

        def fsync(descriptor: int) -> None:
            before()
            real_fsync(descriptor)

        def rename(path: Path, target: Path) -> Path:
            before()
            return real_replace(path, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", rename)

    stop_at(-1)
    pack(request(source, tmp_path / "all"))
    whole = moments
    assert whole > 30
    expected = contents(tmp_path / "all")
    for moment in range(1, whole + 1, 3):
        out = tmp_path / str(moment)
        stop_at(moment)
        with pytest.raises(StopError):
            pack(request(source, out))
        assert not (out / "train.manifest.json").exists() or moment >= whole - 1
        stop_at(-1)
        pack(request(source, out))
        assert contents(out) == expected


def test_finished_shards_are_not_made_again(source: Path, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match="--max-rejected"):
        pack(request(source, out, max_rejected=1))
    written = {path.name: path.stat() for path in out.glob("*.tar")}
    assert 1 <= len(written) <= 6
    damaged = min(written)
    tar = bytearray((out / damaged).read_bytes())
    tar[700] ^= 1
    (out / damaged).write_bytes(tar)
    packed = pack(request(source, out))
    assert contents(out) == contents(reference)
    for name, before in written.items():
        after = (out / name).stat()
        assert (after.st_ino == before.st_ino) == (name != damaged)
    kept = sum(shard.images for shard in packed.manifest.shards if shard.name in written and shard.name != damaged)
    assert packed.new_images == 28 - kept


def test_what_stops_a_pack_says_how_to_go_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repaired files are another source, so the advice is to start over; and following it works."""
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(source, images)
    advice = rf"delete {out}/train-\*\.tar, {out}/train\.\* and {out}/\.train-pack"

    def fail(_path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(UserError, match=rf"repair the files and start over: {advice}"):
        pack(request(images, out, max_rejected=0))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(UserError, match=rf"cannot be read: Input/output error.*start over: {advice}"):
            pack(request(images, tmp_path / "out"))
    (images / "a" / "README.txt").write_bytes(encoded(photo(99)))
    with pytest.raises(UserError, match="unfinished pack with other settings: source"):
        pack(request(images, out))
    for path in [*out.glob("train-*.tar"), *out.glob("train.*"), *out.glob(".train-pack/*")]:
        path.unlink()
    assert pack(request(images, out)).manifest.images == 29


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_next(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """Otherwise a power failure could leave a manifest of empty shards."""
    source = source_in(source, tmp_path, layout)
    real_fsync, real_replace = os.fsync, Path.replace
    synced_bytes: dict[int, int] = {}
    folders: set[int] = set()

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        status = os.fstat(descriptor)
        synced_bytes[status.st_ino] = status.st_size
        folders.discard(status.st_ino)

    def rename(path: Path, target: Path) -> Path:
        assert not folders, f"the rename before {target} is not on disk"
        assert synced_bytes.get(path.stat().st_ino) == path.stat().st_size, f"{target} is not on disk"
        folders.add(target.parent.stat().st_ino)
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    pack(request(source, tmp_path / "out"))
    assert not folders


def test_the_disk_needs_room_for_what_is_not_there_yet(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--max-rejected"):
        pack(request(source, tmp_path, max_rejected=1))
    records = [load_record(path) for path in records_folder(tmp_path, "train").glob("shard-*.npz")]
    finished_files = sum(record.images + len(record.rejected) for record in records if record is not None)
    checked: list[int] = []
    monkeypatch.setattr(packing, "check_shard_space", lambda _request, images: checked.append(images))
    pack(request(source, tmp_path))
    assert finished_files > 0
    assert checked == [29 - finished_files]


def test_killed_with_its_workers_it_goes_on(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", {"a": 60, "b": 60})
    options = ["--size", str(SIZE), "--samples-per-shard", "3", "--processes", "2"]
    command = [sys.executable, "-m", "alexnet_dist.pack", str(source), str(tmp_path / "out"), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "out").glob(".train-pack/shard-*.npz"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert workers
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not (tmp_path / "out" / "train.manifest.json").exists()
    packed = pack(request(source, tmp_path / "out", samples_per_shard=3))
    assert 0 < packed.new_images < 120
    pack(request(source, tmp_path / "whole", samples_per_shard=3))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def is_running(process: str) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_packed_already(source: Path, reference: Path) -> None:
    before = contents(reference)
    packed = pack(request(source, reference, processes=3, max_rejected=0))
    assert packed.new_images == 0
    assert packed.manifest.images == 28
    assert contents(reference) == before


def test_packed_already_in_a_folder_that_is_read_only(
    source: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(_out: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(packing, "locked", read_only)
    assert pack(request(source, reference)).new_images == 0


@pytest.mark.parametrize("unfinished", [False, True])
def test_other_options_or_another_source_are_refused(source: Path, tmp_path: Path, unfinished: bool) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(source, images)
    if unfinished:
        with pytest.raises(UserError, match="--max-rejected"):
            pack(request(images, out, max_rejected=0))
    else:
        pack(request(images, out))
    before = contents(out)
    for change, message in (
        ({"seed": 1}, r"seed \(packed with 0, requested 1\)"),
        (
            {"size": 24, "quality": 80},
            r"quality \(packed with 90, requested 80\), size \(packed with 16, requested 24\)",
        ),
        ({"holdout": 0.5}, "holdout"),
    ):
        with pytest.raises(UserError, match=message):
            pack(request(images, out, **change))
    (images / "a" / "new.jpg").write_bytes(encoded(photo(99)))
    with pytest.raises(UserError, match=r"source \(packed with 29 files .*, requested 30 files .*\)"):
        pack(request(images, out))
    assert contents(out) == before


def test_an_unfinished_pack_is_not_finished_by_what_would_make_other_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--max-rejected"):
        pack(request(source, tmp_path, max_rejected=0))
    versions = library_versions() | {"pillow": "0.1"}
    for name, value, message in (
        ("library_versions", lambda: versions, r"pillow version \(packed with .*, requested 0\.1\)"),
        ("PACK_VERSION", 10**6, r"pack version \(packed with .*, requested 1000000\)"),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(output_folder, name, value)
            with pytest.raises(UserError, match=rf"unfinished pack with other settings: {message}"):
                pack(request(source, tmp_path))
    pack(request(source, tmp_path))


def test_a_shard_that_went_missing_is_noticed(source: Path, tmp_path: Path) -> None:
    pack(request(source, tmp_path))
    (tmp_path / "train-000002.tar").unlink()
    with pytest.raises(UserError, match=r"train-000002\.tar: missing"):
        pack(request(source, tmp_path))


def test_other_peoples_shards_are_not_overwritten(source: Path, tmp_path: Path) -> None:
    (tmp_path / "train-000001.tar").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"train-000001\.tar: would be overwritten"):
        pack(request(source, tmp_path))
    assert contents(tmp_path) == {"train-000001.tar": b"precious"}


def test_two_packers_of_one_folder_refuse_each_other(source: Path, tmp_path: Path) -> None:
    hold = (
        "import sys, pathlib\nfrom alexnet_dist.pack.output_folder import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n    print(flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="another pack is writing into this folder"):
            pack(request(source, tmp_path))
        other.kill()
    pack(request(source, tmp_path))
