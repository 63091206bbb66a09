"""The tar reader finds what tarfile finds, and rejects hostile or damaged archives, in constant memory."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.errors import UserError
from alexnet_dist.pack import gzip_tars, tars
from alexnet_dist.pack.tars import Member
from support.layouts import add, tar_of

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def members(content: bytes) -> list[Member]:
    return list(tars.range_members(lambda at, size: content[at : at + size], "some.tar", 0, len(content)))


def forward(content: bytes) -> Iterator[tuple[Member, bytes]]:
    read_at = gzip_tars.ForwardReader(io.BytesIO(content))
    for member in tars.members(read_at, "some.tar"):
        yield member, read_at(member.offset, member.size_bytes)


def special(name: str, kind: bytes, target: str = "") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        tar.addfile(member)
        add(tar, "good.jpg", b"good")
    return content.getvalue()


names = st.text(st.characters(categories=["L", "N"], include_characters="._- /"), min_size=1, max_size=220).filter(
    lambda name: not name.startswith("/") and ".." not in name.split("/") and not name.endswith("/")
)


@given(
    st.lists(st.tuples(names, st.binary(max_size=1300)), max_size=6),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_it_finds_what_tarfile_finds(files: list[tuple[str, bytes]], form: int) -> None:
    content = tar_of(files, form)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar]
    read = members(content)
    assert [(member.name, member.offset, member.size_bytes) for member in read] == expected
    assert all(member.problem is None for member in read)
    assert [data for _, data in forward(content)] == [data for _, data in files]


@pytest.mark.parametrize("form", FORMATS)
def test_folders_are_passed_over_and_long_paths_are_whole(form: int) -> None:
    content = io.BytesIO()
    name = "a" * 60 + "/" + "b" * 80 + "/c.jpg"
    with tarfile.open(fileobj=content, mode="w", format=form) as tar:
        entry = tarfile.TarInfo("a" * 60)
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
        add(tar, name, b"x" * 700)
    (member,) = members(content.getvalue())
    assert (member.name, member.size_bytes, member.problem) == (name, 700, None)


def test_a_tar_in_a_tar_is_a_range_of_it() -> None:
    inner = tar_of([("1.jpg", b"one"), ("2.jpg", b"two")])
    outer = tar_of([("first.tar", inner), ("last.tar", inner)])
    for member in members(outer):
        read_at = lambda at, size: outer[at : at + size]  # noqa: E731
        inner_members = list(tars.range_members(read_at, member.name, member.offset, member.offset + member.size_bytes))
        assert [outer[m.offset : m.offset + m.size_bytes] for m in inner_members] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("content", "name", "problem"),
    [
        (special("../../etc/passwd", tarfile.REGTYPE), "../../etc/passwd", "its name leads out of the archive"),
        (special("a/../b.jpg", tarfile.REGTYPE), "a/../b.jpg", "its name leads out of the archive"),
        (special("/etc/passwd", tarfile.REGTYPE), "/etc/passwd", "its name is an absolute path"),
        (special("link.jpg", tarfile.SYMTYPE, "/etc/passwd"), "link.jpg", "a link"),
        (special("hard.jpg", tarfile.LNKTYPE, "good.jpg"), "hard.jpg", "a hard link"),
        (special("dev.jpg", tarfile.CHRTYPE), "dev.jpg", "a device"),
        (special("disk.jpg", tarfile.BLKTYPE), "disk.jpg", "a device"),
        (special("fifo.jpg", tarfile.FIFOTYPE), "fifo.jpg", "a pipe"),
        (special("sparse.jpg", tarfile.GNUTYPE_SPARSE), "sparse.jpg", "a sparse file"),
        (special("bell\a.jpg", tarfile.REGTYPE), "bell\\x07.jpg", "its name is not printable UTF-8"),
    ],
)
def test_hostile_members_are_named_with_the_reason(content: bytes, name: str, problem: str) -> None:
    hostile, good = members(content)
    assert (hostile.name, hostile.problem) == (name, problem)
    assert (good.name, good.problem) == ("good.jpg", None)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("letters", [5_000, 1_000_000, 2_000_000])
def test_a_name_of_a_million_letters_is_not_read(form: int, letters: int) -> None:
    content = tar_of([("n" * letters, b"x"), ("good.jpg", b"good")], form)
    hostile, good = members(content)
    assert hostile.problem is not None
    assert "bytes, more than" in hostile.problem
    assert len(hostile.name) <= 100
    assert good.name == "good.jpg"
    tracemalloc.start()
    assert [member.name for member, _ in forward(content)] == [hostile.name, "good.jpg"]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 5 << 20


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:700], "it ends inside 1.jpg"),
        (lambda content: content[:1124], "it ends inside a header"),
        (lambda content: content[:530] + b"?" + content[531:], None),
        (lambda content: content[:1030] + b"?" + content[1031:], "no tar header where one is expected"),
        (lambda _: b"x" * 2000, "no tar header where one is expected"),
        (lambda content: b"\xff\xd8\xff" + content, "no tar header where one is expected"),
    ],
)
def test_damage_is_refused_by_archive_and_byte(damage: object, message: str | None) -> None:
    content = damage(tar_of([("1.jpg", b"1" * 512), ("2.jpg", b"2" * 600)]))  # type: ignore[operator]
    if message is None:
        assert len(members(content)) == 2
        return
    with pytest.raises(UserError, match=rf"some\.tar: damaged tar: {message}.*, at byte \d+"):
        members(content)


def test_sizes_that_lie_are_refused() -> None:
    content = bytearray(tar_of([("1.jpg", b"1" * 512)]))
    for size in (
        b"77777777777\0",
        b"\x80" + b"\0" * 3 + b"\x3f" + b"\xff" * 7,
        b"\xff" * 12,
        b"12x45678901\0",
        b"-0000000001\0",
    ):
        header = bytearray(content[:512])
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        with pytest.raises(UserError, match=r"ends inside 1\.jpg|unreadable size"):
            members(bytes(header) + bytes(content[512:]))


def unpack(path: Path) -> None:
    """Read a tar.gz to its end."""
    with gzip_tars.open_gzip(path) as stream:
        read_at = gzip_tars.ForwardReader(stream)
        for member in tars.members(read_at, str(path)):
            read_at(member.offset + member.size_bytes - 1, 1)


def test_a_gzip_bomb_is_refused_early_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "train_images_0.tar.gz"
    header = tar_of([("bomb_n01440764.JPEG", b"")])[:512]
    big = bytearray(header)
    big[124:136] = b"%011o\0" % (3 << 30)
    big[148:156] = b" " * 8
    big[148:156] = b"%06o\0 " % sum(big)
    zeros = gzip.compress(bytes(64 << 20))
    path.write_bytes(gzip.compress(bytes(big)) + zeros * 4)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"train_images_0\.tar\.gz: unpacks to more than 50 times its size"):
        unpack(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 16 << 20


@pytest.mark.parametrize(
    "content", [b"no gzip at all", gzip.compress(b"x" * 5000)[:-30], gzip.compress(b"a" * 99)[:20]]
)
def test_what_is_no_gzip_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "images.tar.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"images\.tar\.gz: damaged"):
        unpack(path)


def mutate(content: bytes, generator: random.Random) -> bytes:
    """Change, delete, repeat or insert some bytes, mostly in headers; often correct the checksums."""
    data = bytearray(content)
    for _ in range(generator.randrange(1, 6)):
        block = generator.randrange(max(1, len(data) // 512)) * 512
        at = min(
            len(data) - 1, block + generator.choice((0, 99, 124, 130, 135, 156, 257, 345, generator.randrange(512)))
        )
        kind = generator.randrange(5)
        if kind == 0:
            data[at] = generator.randrange(256)
        elif kind == 1:
            data[at : at + 12] = generator.choice(
                (b"77777777777\0", b"\x80" + b"\xff" * 11, bytes(12), b"00000000000 ")
            )
        elif kind == 2:
            del data[at : at + generator.choice((1, 100, 512))]
        elif kind == 3:
            data[block + 156 : block + 157] = generator.choice((b"L", b"x", b"g", b"5", b"1", b"S", b"\0"))
        else:
            data[at:at] = bytes(data[block : block + 512])
        if not data:
            return b""
    if generator.random() < 0.7:
        for block in range(0, len(data) - 511, 512):
            if data[block + 257 : block + 262] == b"ustar":
                data[block + 148 : block + 156] = b" " * 8
                data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    return bytes(data)


SEEDS = [tar_of([("a/1.jpg", b"1" * 700), ("b" * 150, b"2"), ("c.cls", b"7")], form) for form in (1, 2)]


def test_fuzz_nothing_but_its_own_errors_comes_of_damaged_tars(fuzz_seeds: Iterator[int]) -> None:
    rejected = 0
    for seed in fuzz_seeds:
        generator = random.Random(seed)
        content = mutate(generator.choice(SEEDS), generator)
        try:
            for member in members(content):
                assert member.offset + member.size_bytes <= len(content)
                assert member.problem is not None or ".." not in member.name.split("/")
        except UserError:
            rejected += 1
        with suppress(UserError):
            for _ in forward(content):
                pass
    assert 0 < rejected < seed
