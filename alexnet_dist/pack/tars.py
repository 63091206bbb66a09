"""Reads the headers of tar files: the name, offset and size of each member, without unpacking anything.

The standard library's tarfile takes 90 us a member, reads a name of any length into memory, and has looped forever
on crafted headers; a set of 1.3 million images needs a strict reader that does none of this. It supports POSIX ustar,
GNU long names and pax paths, which are what tar programs write. It never creates a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.errors import UserError
from alexnet_dist.pack.file_kinds import LONGEST_START, wrong_kind

BLOCK_BYTES = 512
LONGEST_NAME_BYTES = 4096
LONGEST_PAX_BYTES = 1 << 16
REGULAR, FOLDER, LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL = (b"0", b"\0", b"7"), b"5", b"L", b"K", b"x", b"g"
EXTENSIONS = (LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL)
SPECIAL = {
    b"1": "a hard link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}

ReadAt = Callable[[int, int], bytes]


class Member(NamedTuple):
    """A member that is not a folder: its name, where its bytes are in the archive, and why it is rejected, or None."""

    name: str
    offset: int
    size_bytes: int
    problem: str | None


class _Extension(NamedTuple):
    """What the extension headers before a member's own header say about it; None if they do not."""

    name: bytes | None = None
    size_bytes: int | None = None
    problem: str | None = None


def members(read_at: ReadAt, archive: str, first: int = 0) -> Iterator[Member]:
    """Yield the members of the tar that starts at byte `first`, in archive order.

    read_at: returns `size` bytes from (offset, size), or fewer if the archive ends. archive: its name in messages.
    Raises UserError with the archive and the byte where it is damaged.
    """
    at, extension = first, _Extension()
    while True:
        header = read_at(at, BLOCK_BYTES)
        if header.strip(b"\0") == b"":
            # POSIX ends a tar with two empty blocks, but many programs write one or none.
            if len(header) not in (0, BLOCK_BYTES) or extension != _Extension():
                raise _damaged(archive, at, "it ends where a header is expected")
            return
        kind, name, size_bytes = _parse_header(header, archive, at)
        data = at + BLOCK_BYTES
        if kind in EXTENSIONS:
            extension = _read_extension(extension, kind, read_at, data, size_bytes, archive)
        else:
            size_bytes = extension.size_bytes if extension.size_bytes is not None else size_bytes
            if kind != FOLDER:
                raw_name = extension.name if extension.name is not None else name
                yield Member(_printable(raw_name), data, size_bytes, extension.problem or _problem(raw_name, kind))
            extension = _Extension()
            if kind == FOLDER:
                _check_complete(read_at, archive, data, size_bytes)
        at = data + -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def range_members(read_at: ReadAt, archive: str, first: int, end: int) -> Iterator[Member]:
    """Yield the members of a tar in the bytes [first, end) of a file, such as a tar inside another tar.

    Raises UserError as `members` does, and for a member that extends beyond `end`.
    """
    for member in members(lambda at, size: read_at(at, max(0, min(size, end - at))), archive, first):
        if member.offset + member.size_bytes > end:
            raise _damaged(archive, member.offset, f"it ends inside {member.name:.100}")
        yield member


def file_members(path: Path) -> Iterator[Member]:
    """Yield the members of a tar file; raises UserError if it is damaged, truncated or no tar."""
    with path.open("rb", buffering=0) as file:
        descriptor, size_bytes = file.fileno(), os.fstat(file.fileno()).st_size
        try:
            yield from range_members(lambda at, size: os.pread(descriptor, size, at), str(path), 0, size_bytes)
        except UserError:
            problem = wrong_kind(path, os.pread(descriptor, LONGEST_START, 0), "a tar")
            if problem is None:
                raise
            raise UserError(f"{path}: {problem}") from None


def _check_complete(read_at: ReadAt, archive: str, data: int, size_bytes: int) -> None:
    """Raise UserError if the archive ends inside bytes that are skipped."""
    if size_bytes and not read_at(data + size_bytes - 1, 1):
        raise _damaged(archive, data, f"it ends inside a header's {size_bytes} bytes")


def _parse_header(header: bytes, archive: str, at: int) -> tuple[bytes, bytes, int]:
    """Return the kind, name and size in a header; raises UserError if its checksum or its size is invalid."""
    if len(header) < BLOCK_BYTES:
        raise _damaged(archive, at, "it ends inside a header")
    # The checksum is computed with its own field as blanks.
    checksum = sum(header) - sum(header[148:156]) + 8 * 32
    if _parse_number(header[148:156]) != checksum:
        raise _damaged(archive, at, "no tar header where one is expected (its checksum is wrong)")
    size_bytes = _parse_number(header[124:136])
    if size_bytes is None:
        raise _damaged(archive, at, "a header with an unreadable size")
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return header[156:157], name, size_bytes


def _parse_number(field: bytes) -> int | None:
    """Return the number in a header field, octal text or GNU's base 256 for large ones; None if it is neither."""
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], "big")
        return number if number < 1 << 62 else None
    text = field.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    return int(text, 8) if all(0x30 <= digit <= 0x37 for digit in text) else None


def _read_extension(
    extension: _Extension, kind: bytes, read_at: ReadAt, data: int, size_bytes: int, archive: str
) -> _Extension:
    """Merge a long-name or pax header into `extension`; a name that is too long is not read, but marks a problem."""
    if kind in (LONG_LINK, PAX_GLOBAL):
        _check_complete(read_at, archive, data, size_bytes)
        return extension
    longest = LONGEST_NAME_BYTES if kind == LONG_NAME else LONGEST_PAX_BYTES
    if size_bytes > longest:
        start = read_at(data, 64)
        _check_complete(read_at, archive, data, size_bytes)
        return extension._replace(name=start, problem=f"its name has {size_bytes} bytes, more than {longest}")
    content = read_at(data, size_bytes)
    if len(content) < size_bytes:
        raise _damaged(archive, data, "it ends inside a long name")
    if kind == LONG_NAME:
        return extension._replace(name=content.split(b"\0", 1)[0])
    return _read_pax(extension, content, archive, data)


def _read_pax(extension: _Extension, content: bytes, archive: str, data: int) -> _Extension:
    """Merge the records of a pax header into `extension`; each is ``length key=value`` and a line feed."""
    at = 0
    while at < len(content):
        length, blank, _ = content[at : at + 16].partition(b" ")
        if not blank or not length.isdigit() or not len(length) + 1 < int(length) <= len(content) - at:
            raise _damaged(archive, data, "a pax header that cannot be read")
        key, _, value = content[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        if key == b"path":
            extension = extension._replace(name=value)
            if len(value) > LONGEST_NAME_BYTES:
                problem = f"its name has {len(value)} bytes, more than {LONGEST_NAME_BYTES}"
                extension = extension._replace(name=value[:64], problem=problem)
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise _damaged(archive, data, "a pax header with an unreadable size")
            extension = extension._replace(size_bytes=int(value))
        elif key.startswith(b"GNU.sparse"):
            extension = extension._replace(problem=SPECIAL[b"S"])
        at += int(length)
    return extension


def _problem(name: bytes, kind: bytes) -> str | None:
    """Return why a member is rejected, or None: it must be a plain file with a name that stays in the archive."""
    if kind not in REGULAR:
        return SPECIAL.get(kind, f"a member of unknown kind {kind!r}")
    if name.startswith(b"/"):
        return "its name is an absolute path"
    if b".." in name.split(b"/"):
        return "its name leads out of the archive"
    try:
        printable = name.decode().isprintable()
    except UnicodeDecodeError:
        printable = False
    return None if name and printable else "its name is not printable UTF-8"


def _printable(name: bytes) -> str:
    text = name.decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _damaged(archive: str, at: int, what: str) -> UserError:
    return UserError(f"{archive}: damaged tar: {what}, at byte {at}. Download or copy it again")
