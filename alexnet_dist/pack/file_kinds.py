"""What a file is that is not what its name says: other programs' formats are known by their first bytes."""

from __future__ import annotations

from pathlib import Path

LONGEST_START = 265
# How to make the expected file from another one; the name is that of the file.
COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gzip -dc {0} > NEW"),
    b"BZh": ("bzip2", "bzip2 -dc {0} > NEW"),
    b"\xfd7zXZ\0": ("xz", "xz -dc {0} > NEW"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dc {0} > NEW"),
    b"PK\x03\x04": ("zip", "unzip {0}"),
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def wrong_kind(path: Path, start: bytes, expected: str) -> str | None:
    """Return what a file is instead of `expected` and what to type, by its first bytes; None if that is not known."""
    for magic, (kind, command) in COMPRESSED.items():
        if start.startswith(magic) and expected != f"a {kind} file":
            return f"is a {kind} file and not {expected}: unpack it with {command.format(path)}"
    if start.startswith(LFS_POINTER):
        return f"is a pointer of Git LFS and not {expected}: fetch the file with git lfs pull"
    if start.lstrip()[:1] == b"<":
        return f"is a web page and not {expected}: download it again, logged in where the site requires it"
    if start[257:262] == b"ustar" and expected != "a tar":
        return f"is a tar and not {expected}: rename it to NAME.tar"
    if start.startswith(b"PAR1") and expected != "a parquet file":
        return f"is a parquet file and not {expected}: rename it to NAME.parquet"
    return None


def read_start(path: Path) -> bytes:
    """Return the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(LONGEST_START)
