"""Where the members of a tar lie: names, offsets and sizes, read from its headers alone, without unpacking anything.

The standard library's tarfile takes 90 us a member, reads a name of any length into memory, and has looped for ever
on crafted headers; a set of 1.3 million images wants a strict reader that can do none of it. POSIX ustar, GNU long
names and pax paths are understood, which is what tar programs write. Nothing here ever creates a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from isal import igzip, igzip_lib

from alexnet_dist.errors import UserError

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

# JPEGs hardly shrink in gzip, and a bomb grows a thousandfold; what a first chunk grows to is not yet telling.
LARGEST_GROWTH, FIRST_BYTES = 50, 64 << 20

ReadAt = Callable[[int, int], bytes]


class Member(NamedTuple):
    """A member that is not a folder: its name, where its bytes lie in the archive, or why it cannot be taken."""

    name: str
    offset: int
    size_bytes: int
    problem: str | None


class Readable(Protocol):
    """An open binary file that is read forward."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""


def members(read_at: ReadAt, archive: str, first: int = 0) -> Iterator[Member]:
    """Yield the members of the tar that begins at byte `first`, in their order.

    read_at: gives the bytes at (offset, size), fewer where the archive ends. archive: its name, for messages.
    Raises UserError naming the archive and the byte where it is damaged.
    """
    at, given = first, _Given()
    while True:
        header = read_at(at, BLOCK_BYTES)
        if header.strip(b"\0") == b"":
            # Two empty blocks end a tar; many programs write one, or none.
            if len(header) not in (0, BLOCK_BYTES) or given != _Given():
                raise _damaged(archive, at, "it ends where a header is expected")
            return
        kind, name, size_bytes = _parse(header, archive, at)
        data = at + BLOCK_BYTES
        if kind in EXTENSIONS:
            given = _extended(given, kind, read_at, data, size_bytes, archive)
        else:
            size_bytes = given.size_bytes if given.size_bytes is not None else size_bytes
            if kind != FOLDER:
                raw = given.name if given.name is not None else name
                yield Member(_text(raw), data, size_bytes, given.problem or _problem(raw, kind))
            given = _Given()
            if kind == FOLDER:
                _check_there(read_at, archive, data, size_bytes)
        at = data + -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _check_there(read_at: ReadAt, archive: str, data: int, size_bytes: int) -> None:
    """Refuse an archive that ends inside what is passed over."""
    if size_bytes and not read_at(data + size_bytes - 1, 1):
        raise _damaged(archive, data, f"it ends inside a header's {size_bytes} bytes")


class _Given(NamedTuple):
    """What the headers before a member say of it."""

    name: bytes | None = None
    size_bytes: int | None = None
    problem: str | None = None


def _parse(header: bytes, archive: str, at: int) -> tuple[bytes, bytes, int]:
    """Return a header's kind, name and size, once its checksum is found right."""
    if len(header) < BLOCK_BYTES:
        raise _damaged(archive, at, "it ends inside a header")
    # The checksum is taken with its own field as blanks.
    found = sum(header) - sum(header[148:156]) + 8 * 32
    if _number(header[148:156]) != found:
        raise _damaged(archive, at, "no tar header where one is expected (its checksum is wrong)")
    size_bytes = _number(header[124:136])
    if size_bytes is None:
        raise _damaged(archive, at, "a header with an unreadable size")
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return header[156:157], name, size_bytes


def _number(field: bytes) -> int | None:
    """Return a header's number: octal text, or GNU's base 256 for large ones; None where it is neither."""
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], "big")
        return number if number < 1 << 62 else None
    text = field.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    return int(text, 8) if all(0x30 <= digit <= 0x37 for digit in text) else None


def _extended(given: _Given, kind: bytes, read_at: ReadAt, data: int, size_bytes: int, archive: str) -> _Given:
    """Take in what a long-name or pax header says; a name beyond reason is not read, and its member refused."""
    if kind in (LONG_LINK, PAX_GLOBAL):
        _check_there(read_at, archive, data, size_bytes)
        return given
    longest = LONGEST_NAME_BYTES if kind == LONG_NAME else LONGEST_PAX_BYTES
    if size_bytes > longest:
        start = read_at(data, 64)
        _check_there(read_at, archive, data, size_bytes)
        return given._replace(name=start, problem=f"its name has {size_bytes} bytes, more than {longest}")
    content = read_at(data, size_bytes)
    if len(content) < size_bytes:
        raise _damaged(archive, data, "it ends inside a long name")
    if kind == LONG_NAME:
        return given._replace(name=content.split(b"\0", 1)[0])
    return _pax(given, content, archive, data)


def _pax(given: _Given, content: bytes, archive: str, data: int) -> _Given:
    """Take in the records of a pax header, each ``length key=value`` and a line feed."""
    at = 0
    while at < len(content):
        length, blank, _ = content[at : at + 16].partition(b" ")
        if not blank or not length.isdigit() or not len(length) + 1 < int(length) <= len(content) - at:
            raise _damaged(archive, data, "a pax header that cannot be read")
        key, _, value = content[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        if key == b"path":
            given = given._replace(name=value)
            if len(value) > LONGEST_NAME_BYTES:
                problem = f"its name has {len(value)} bytes, more than {LONGEST_NAME_BYTES}"
                given = given._replace(name=value[:64], problem=problem)
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise _damaged(archive, data, "a pax header with an unreadable size")
            given = given._replace(size_bytes=int(value))
        elif key.startswith(b"GNU.sparse"):
            given = given._replace(problem=SPECIAL[b"S"])
        at += int(length)
    return given


def _problem(name: bytes, kind: bytes) -> str | None:
    """Return why a member is refused, or None: only plain files with names that stay inside are taken."""
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


def _text(name: bytes) -> str:
    text = name.decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _damaged(archive: str, at: int, what: str) -> UserError:
    return UserError(f"{archive}: not a whole tar: {what}, at byte {at}. Download or copy it again")


def list_file(path: Path) -> Iterator[Member]:
    """Yield the members of a tar file; raises UserError where it is damaged or a member ends beyond it."""
    with path.open("rb", buffering=0) as file:
        descriptor, size_bytes = file.fileno(), os.fstat(file.fileno()).st_size
        yield from inside(lambda at, size: os.pread(descriptor, size, at), str(path), 0, size_bytes)


def inside(read_at: ReadAt, archive: str, first: int, end: int) -> Iterator[Member]:
    """Yield the members of a tar that lies in the bytes [first, end) of a file, such as one tar inside another."""
    for member in members(lambda at, size: read_at(at, max(0, min(size, end - at))), archive, first):
        if member.offset + member.size_bytes > end:
            raise _damaged(archive, member.offset, f"it ends inside {member.name:.100}")
        yield member


class Forward:
    """Reads a stream at growing offsets; what lies between is passed over. For archives that cannot be sought."""

    CHUNK_BYTES = 1 << 20

    def __init__(self, stream: Readable) -> None:
        self._stream, self._at = stream, 0

    def __call__(self, offset: int, size: int) -> bytes:
        """Return the bytes at (offset, size), fewer at the end; raises ValueError for an offset that has passed."""
        if offset < self._at:
            raise ValueError(f"byte {offset} has passed: the stream is at {self._at}")
        while self._at < offset:
            passed = self._stream.read(min(self.CHUNK_BYTES, offset - self._at))
            if not passed:
                return b""
            self._at += len(passed)
        parts: list[bytes] = []
        while size > 0 and (part := self._stream.read(min(self.CHUNK_BYTES, size))):
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return b"".join(parts)


class Unzipped:
    """An archive's content as it is unpacked; refuses one that grows beyond what images can."""

    def __init__(self, stream: Readable, file: BinaryIO, path: Path) -> None:
        self._stream, self._file, self._path = stream, file, path
        self._read_bytes = 0

    @property
    def at_bytes(self) -> int:
        """How much of the archive itself has been read."""
        return self._file.tell()

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; raises UserError for a bomb."""
        data = self._stream.read(size)
        self._read_bytes += len(data)
        if self._read_bytes > max(FIRST_BYTES, LARGEST_GROWTH * self.at_bytes):
            raise UserError(
                f"{self._path}: unpacks to more than {LARGEST_GROWTH} times its size, which images never do: a gzip "
                "bomb, or no set of images"
            )
        return data


@contextmanager
def unzipped(path: Path) -> Iterator[Unzipped]:
    """Open a gzip file to be read forward; raises UserError where it is damaged."""
    try:
        # Twice as fast as the standard library's.
        with path.open("rb") as file, igzip.IGzipFile(fileobj=file) as stream:  # type: ignore[no-untyped-call]
            yield Unzipped(stream, file, path)
    except (OSError, EOFError, igzip_lib.IsalError) as error:  # type: ignore[misc]
        raise UserError(f"{path}: not a whole gzip file ({error}): download it again") from None
