"""Each entry of messy shards and lists is packed, rejected with a reason, or counted by a rule that ignores it."""

from __future__ import annotations

import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hypothesis import event, given, settings
from hypothesis import strategies as st

from alexnet_dist.errors import UserError
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.sources import lists, webdataset
from alexnet_dist.pack.sources.fields import SampleFields
from alexnet_dist.pack.sources.listing import ImageSource
from support.colours import colour_image
from support.folders import request
from support.layouts import add

JPEG = colour_image(1)
# Two samples that are whole, so that there is always something to pack.
WHOLE = (("whole0.jpg", JPEG), ("whole0.cls", b"a"), ("whole1.jpg", JPEG), ("whole1.cls", b"b"))
IMAGE_FIELDS, OTHER_FIELDS = ("jpg", "JPEG", "webp", "in.jpg"), ("npy", "", "json", "txt", "tar", "x.y")
KEYS = st.sampled_from(["0", "1", "n.1", "n.2", "d/0", "./0", "._0", ".git/0", "n01440764_1", "é"])
CONTENTS = st.sampled_from([JPEG, b"", b"junk", b"a", b"b", b"7", b"\xff", b"a/b", b'{"label": "a"}', b"x" * 300])


class Entry(NamedTuple):
    """A member of a shard; link: it is a symbolic link rather than a file."""

    name: str
    data: bytes
    link: bool


def entries(fields: Sequence[str]) -> st.SearchStrategy[Entry]:
    names = st.builds(lambda key, field: f"{key}.{field}" if field else key, KEYS, st.sampled_from(fields))
    return st.builds(Entry, names, CONTENTS, st.sampled_from([False] * 9 + [True]))


# One image field in each shard, and any number of other members; or anything at all.
TIDY = st.sampled_from(IMAGE_FIELDS).flatmap(
    lambda field: st.lists(entries([field, field, "cls", "cls", *OTHER_FIELDS]), max_size=14)
)
ANYTHING = st.lists(entries([*IMAGE_FIELDS, "png", "cls", "out.cls", *OTHER_FIELDS]), max_size=14)


def write_shard(path: Path, members: Sequence[Entry]) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in WHOLE:
            add(tar, name, data)
        for entry in members:
            if entry.link:
                link = tarfile.TarInfo(entry.name)
                link.type, link.linkname = tarfile.SYMTYPE, "whole0.jpg"
                tar.addfile(link)
            else:
                add(tar, entry.name, entry.data)


def check_conserved(source: ImageSource, seen: int) -> None:
    """Check that the source has seen every entry, and accounts for each of them once."""
    assert source.seen == seen
    assert seen == len(source.files) + len(source.rejected) + sum(source.ignored.values())
    assert all(rejection.reason for rejection in source.rejected)
    locations = [(file.path, file.offset) for file in source.files]
    assert len(set(locations)) == len(locations)


def check_images_are_listed(source: ImageSource, shard: str, members: Sequence[Entry]) -> None:
    """Check that every member that is an image by its bytes is packed or rejected, and none ignored."""
    images = Counter(entry.name for entry in members if entry.data == JPEG and not entry.link)
    names = {file.name.partition("/")[2] for file in source.files if file.path == shard}
    reasons = Counter(rejection.file.removeprefix(f"{shard}: ") for rejection in source.rejected)
    for name, count in images.items():
        if not name.endswith((".cls", ".json", ".txt")):
            assert name.rpartition("/")[2] in names or reasons[name] >= count, name


@settings(max_examples=150)
@given(st.lists(TIDY, min_size=1, max_size=2), st.sampled_from([SampleFields(), SampleFields(label="cls")]))
def test_every_member_of_messy_shards_is_accounted_for(shards: list[list[Entry]], fields: SampleFields) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number, members in enumerate(shards):
            write_shard(root / f"train-{number}.tar", members)
        (root / "extra-0.tar").write_bytes(b"")
        (root / "README").write_bytes(b"")
        try:
            source = webdataset.list_split(root, "train", None, fields)
        except UserError as error:
            event(f"refused: {str(error).partition(': ')[2][:12]}")
            return
        event("listed")
        check_conserved(source, sum(len(WHOLE) + len(members) for members in shards) + 2)
        for number, members in enumerate(shards):
            check_images_are_listed(source, f"train-{number}.tar", members)


@settings(max_examples=150)
@given(ANYTHING)
def test_shards_with_anything_in_them_are_accounted_for_or_refused_with_an_option(members: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_shard(root / "train-0.tar", members)
        try:
            source = webdataset.list_split(root, "train", None)
        except UserError as error:
            event("refused")
            if "--label-field" not in str(error) and "none of the files of class" not in str(error):
                raise
            # With the fields given there is one reading, so nothing about the keys is refused.
            source = webdataset.list_split(root, "train", None, SampleFields("jpg", "cls"))
        check_conserved(source, len(WHOLE) + len(members))
        check_images_are_listed(source, "train-0.tar", [entry for entry in members if entry.name.endswith(".jpg")])


@settings(max_examples=12)
@given(TIDY)
def test_the_numbers_of_a_packed_set_add_up(members: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "source"
        root.mkdir()
        write_shard(root / "train-0.tar", members)
        try:
            manifest = pack(request(root, Path(folder) / "out")).manifest
        except UserError:
            event("refused")
            return
        assert manifest.seen == manifest.images + len(manifest.rejected) + sum((manifest.ignored or {}).values())
        assert manifest.seen == len(WHOLE) + len(members)


LINES = st.sampled_from(
    [
        "",
        "# comment",
        "  ",
        "0.jpg\ta",
        "1.jpg b",
        "gone.jpg a",
        "folder\ta",
        "odd name.jpg\tb",
        "../out.jpg a",
        "fifo a",
    ]
)


@given(st.lists(LINES, unique=True, max_size=10))
def test_every_line_of_a_list_is_accounted_for(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        (root / "folder").mkdir(parents=True)
        for name in ("whole.jpg", "0.jpg", "1.jpg", "odd name.jpg"):
            (root / name).write_bytes(JPEG)
        text = ["whole.jpg\ta", *lines]
        (root / "list.txt").write_text("\n".join(text) + "\n")
        source = lists.list_images(root / "list.txt", ("a", "b"))
        check_conserved(source, len(text))
