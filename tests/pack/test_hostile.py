"""Hostile sources: each is rejected with a message naming it, writes nothing outside OUT, and uses little memory."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.pack.packing import pack
from support.folders import encoded, photo, request
from support.layouts import CLASSES, add, tar_of


def entry_sizes(folder: Path) -> dict[str, int]:
    """Return the size of each entry below a folder, by its relative path."""
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*")}


def hostile_shard(path: Path) -> None:
    """Write a shard with two good samples, and members of every hostile kind after each."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for label, name in enumerate(CLASSES[:2]):
            add(tar, f"{name}_{label}.cls", str(label).encode())
            add(tar, f"{name}_{label}.jpg", encoded(photo(label)))
            for hostile in ("../x.jpg", "/tmp/absolute.jpg", "a/../../y.jpg", "n" * 1_000_000 + ".jpg"):
                add(tar, hostile, b"hostile")
            for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "x.jpg"), (tarfile.CHRTYPE, "")):
                member = tarfile.TarInfo(f"{kind.decode()}.jpg")
                member.type, member.linkname = kind, target
                tar.addfile(member)


def test_hostile_members_are_rejected_by_name_and_the_others_packed(tmp_path: Path) -> None:
    (tmp_path / "home" / "source").mkdir(parents=True)
    hostile_shard(tmp_path / "home" / "source" / "train-000000.tar")
    before = entry_sizes(tmp_path)
    manifest = pack(request(tmp_path / "home" / "source", tmp_path / "home" / "out")).manifest
    assert manifest.images == 2
    reasons = {rejected.file.removeprefix("train-000000.tar: "): rejected.reason for rejected in manifest.rejected}
    assert len(manifest.rejected) == 14
    assert reasons["../x.jpg"] == "its name leads out of the archive"
    assert reasons["a/../../y.jpg"] == "its name leads out of the archive"
    assert reasons["/tmp/absolute.jpg"] == "its name is an absolute path"
    assert (reasons["1.jpg"], reasons["2.jpg"], reasons["3.jpg"]) == ("a hard link", "a link", "a device")
    (long_name,) = [reason for name, reason in reasons.items() if name.startswith("nnn")]
    assert long_name == "its name has 1000005 bytes, more than 4096"
    assert max(map(len, reasons)) < 100
    after = entry_sizes(tmp_path)
    new = [name for name in after if name not in before]
    assert all(name.startswith("home/out") for name in new)
    assert {name: after[name] for name in before if name != "home"} == {n: s for n, s in before.items() if n != "home"}


def with_size(header: bytes, octal: bytes) -> bytes:
    """Return a tar header with another size, 11 octal digits, and a valid checksum."""
    sized = header[:124] + octal + b"\0" + header[136:]
    checksum = sum(sized[:148]) + sum(b" " * 8) + sum(sized[156:])
    return sized[:148] + b"%06o\0 " % checksum + sized[156:]


def test_a_class_tar_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    inner = bytearray(tar_of([("n01440764_1.JPEG", b"x" * 600)]))
    inner[:512] = with_size(bytes(inner[:512]), b"77777777777")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "ILSVRC2012_img_train.tar").write_bytes(tar_of([("n01440764.tar", bytes(inner))]))
    with pytest.raises(UserError, match=r"ILSVRC2012_img_train\.tar: n01440764\.tar: damaged tar: it ends inside"):
        pack(request(tmp_path / "source", tmp_path / "out"))


def bomb_jpeg() -> bytes:
    data = bytearray(encoded(photo(1)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def test_a_giant_header_is_rejected_by_name(tmp_path: Path) -> None:
    for name, data in (("bomb.jpg", bomb_jpeg()), ("good.jpg", encoded(photo(2)))):
        (tmp_path / "source" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / "a" / name).write_bytes(data)
    (rejected,) = pack(request(tmp_path / "source", tmp_path / "out")).manifest.rejected
    assert (rejected.file, rejected.reason) == ("a/bomb.jpg", "65500 x 65500 pixels are more than 100 million")


def gzip_bomb(path: Path, size_bytes: int) -> None:
    """Write a tar.gz of one member of this size; on disk it takes a thousandth of it."""
    header = with_size(tar_of([("bomb_n01440764.JPEG", b"")])[:512], b"%011o" % size_bytes)
    zeros = gzip.compress(bytes(1 << 24), 9)
    path.write_bytes(gzip.compress(header) + zeros * (size_bytes >> 24))


def test_a_gzip_bomb_is_refused_in_little_memory(tmp_path: Path) -> None:
    """Run it in a separate process, to measure its peak memory: 4 GiB would exceed the limit."""
    (tmp_path / "source").mkdir()
    gzip_bomb(tmp_path / "source" / "train_images_0.tar.gz", 4 << 30)
    command = (
        "import re, sys\nfrom pathlib import Path\nfrom alexnet_dist.errors import run_command\n"
        "from alexnet_dist.pack.__main__ import main\n"
        "code = run_command(main)\n"
        # Not ru_maxrss, which a process inherits from the one that started it: these tests take more than a pack.
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\nsys.exit(code)"
    )
    arguments = [str(tmp_path / "source"), str(tmp_path / "out"), "--processes", "1"]
    result = subprocess.run([sys.executable, "-c", command, *arguments], check=False, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert "train_images_0.tar.gz: unpacks to more than 50 times its size" in result.stderr
    assert "Traceback" not in result.stderr
    assert int(result.stdout.split()[-1]) < 600_000  # KiB, including torch's libraries
    assert sum(entry_sizes(tmp_path / "out").values()) < 1 << 20


@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "train_images_0.tar.gz", "train-0.tar"])
def test_what_only_calls_itself_an_archive_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / name).write_bytes(io.BytesIO(b"PAR1 no parquet" * 100).getvalue())
    with pytest.raises(UserError, match=name):
        pack(request(tmp_path / "source", tmp_path / "out"))


def test_parquet_of_other_columns_is_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "source").mkdir()
    path = tmp_path / "source" / "train-00000-of-00001.parquet"
    other_columns = "has no column image; its columns are pixels, label.*--image-column pixels --label-column label"
    for table, message in (
        (pyarrow.table({"pixels": [b"x"], "label": [1]}), rf"of-00001\.parquet: {other_columns}"),
        (pyarrow.table({"image": [{"bytes": b"x", "path": "1.jpg"}], "label": [1]}), "none of the files of class 1 is"),
        (pyarrow.table({"image": [{"bytes": b"x", "path": "1.jpg"}], "label": [-1]}), "row 0 has the label -1"),
        (pyarrow.table({"image": [5], "label": ["x"]}), r"of-00001\.parquet: row 0 has the label 'x'"),
    ):
        parquet.write_table(table, path)
        with pytest.raises(UserError, match=message):
            pack(request(tmp_path / "source", tmp_path / "out"))
        for file in sorted((tmp_path / "out").rglob("*")):
            file.unlink() if file.is_file() else None
