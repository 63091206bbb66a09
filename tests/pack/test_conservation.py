"""Whatever lies in a source of any layout: each file, member and row is packed, rejected by name or ignored by a rule.

What a source holds is counted here by other means than pack's: by walking its folders, and with tarfile and pyarrow.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from alexnet_dist.data import manifest as manifests
from alexnet_dist.data.choices import SplitName
from alexnet_dist.pack.packing import pack
from support.folders import encoded, extract, photo, request
from support.layouts import CLASSES, WRITERS, Images, add, source_path

GOOD = encoded(photo(5)), encoded(photo(6), "PNG")
CONTENTS = (*GOOD, b"", b"read me", GOOD[0][:300], b"GIF89a" + bytes(60))
# The last two have the names of images that are in the source, so that in a tar they occur twice.
NAMES = (
    "1.JPEG", "extra.jpg", "a b.png", "n.0001.v2.jpg", "no extension", ".DS_Store", "._1.JPEG", "Thumbs.db", "é.jpeg",
    "x.jpg.txt", "deep/er/2.jpg", ".git/3.jpg", "deep/.hidden", "0_n01440764.JPEG", "1_n13037406.png",
    "n01440764_0.JPEG", "ILSVRC2012_val_00000001.JPEG",
)  # fmt: skip
KINDS = ("file",) * 8 + ("link", "pipe")
# Two of each class, so that one remains where junk replaces the other.
IMAGES = Images(
    {name: [(f"{name}_{number}", encoded(photo(label + 5 * number))) for number in range(2)]
     for label, name in enumerate(CLASSES)},
    {name: [(f"ILSVRC2012_val_{label + 1 + 5 * number:08d}", encoded(photo(label + 5 * number))) for number in range(2)]
     for label, name in enumerate(CLASSES)},
)  # fmt: skip


class Junk(NamedTuple):
    """Something to be added to a source; position: where, as a number that each layout takes modulo its choices."""

    name: str
    data: bytes
    kind: str
    position: int


JUNK = st.lists(
    st.builds(Junk, st.sampled_from(NAMES), st.sampled_from(CONTENTS), st.sampled_from(KINDS), st.integers(0, 7)),
    max_size=8,
)


def add_files(folders: Sequence[Path], junk: Sequence[Junk]) -> None:
    """Add junk to folders; a file that exists is kept."""
    for item in junk:
        path = folders[item.position % len(folders)] / (item.name if item.position < 7 else os.fsdecode(b"\xff.jpg"))
        if path.exists() or path.is_symlink():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if item.kind == "link":
            path.symlink_to("nowhere")
        elif item.kind == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(item.data)


def entries(folder: Path) -> int:
    """Count the entries below a folder; a hidden folder is one entry, other folders are none."""
    count = 0
    for path in folder.iterdir():
        is_folder = path.is_dir() and not path.name.startswith(".")
        count += entries(path) if is_folder else 1
    return count


def add_members(path: Path, junk: Sequence[Junk], compressed: bool = False) -> None:
    """Add junk to a tar after its own members."""
    content = path.read_bytes()
    stream = io.BytesIO(gzip.decompress(content) if compressed else content)
    with tarfile.open(fileobj=stream, mode="a", format=tarfile.GNU_FORMAT) as tar:
        for item in junk:
            name = f"../{item.name}" if item.position == 7 else item.name
            if item.kind == "file":
                add(tar, name, item.data)
                continue
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (tarfile.SYMTYPE if item.kind == "link" else tarfile.DIRTYPE), "nowhere"
            tar.addfile(member)
    path.write_bytes(gzip.compress(stream.getvalue()) if compressed else stream.getvalue())


def members(path: Path) -> int:
    """Count the members of a tar that are not folders."""
    with tarfile.open(path) as tar:
        return sum(not member.isdir() for member in tar)


def mess_folder(root: Path, split: SplitName, junk: Sequence[Junk]) -> int:
    folder = root / split
    add_files([folder, *(folder / name for name in CLASSES)], [item for item in junk if "/" not in item.name])
    add_files([folder / name for name in CLASSES], [item for item in junk if "/" in item.name])
    return entries(folder)


def mess_list(root: Path, split: SplitName, junk: Sequence[Junk]) -> int:
    add_files([root / "more"], junk)
    names = dict.fromkeys(item.name for item in junk if item.position < 7)
    rows = ["# a comment", "", *(f"more/{name}\t{CLASSES[0]}" for name in names), f"gone.jpg\t{CLASSES[1]}"]
    path = root / f"{split}.txt"
    path.write_text(path.read_text() + "\n".join(rows) + "\n")
    return path.read_text().count("\n")


def mess_kaggle(root: Path, split: SplitName, junk: Sequence[Junk]) -> int:
    data_folder = root / "ILSVRC" / "Data" / "CLS-LOC"
    if split == "train":
        return mess_folder(data_folder, "train", junk)
    add_files([data_folder / "val"], junk)
    return len(list((data_folder / "val").iterdir()))


def mess_ilsvrc(root: Path, split: SplitName, junk: Sequence[Junk]) -> int:
    path = root / f"ILSVRC2012_img_{split}.tar"
    if split == "val":
        # The number of an image that there is none of has no line in the ground truth.
        add_members(path, junk)
        return members(path)
    inner = root / "inner"
    inner.mkdir()
    extract(path, inner)
    names = sorted(inner.iterdir())
    for number, class_tar in enumerate(names):
        add_members(class_tar, [item for item in junk if item.position % 6 == number])
    path.unlink()
    with tarfile.open(path, "w") as tar:
        for class_tar in names:
            add(tar, class_tar.name, class_tar.read_bytes())
    add_members(path, outer := [item for item in junk if item.position % 6 == 5])
    return sum(map(members, names)) + sum(item.kind != "pipe" for item in outer)


def mess_ilsvrc2010(root: Path, split: SplitName, junk: Sequence[Junk]) -> int:
    path, patches = root / f"ILSVRC2010_images_{split}.tar", root / "patch_images.tar"
    add_members(patches, junk)
    with tarfile.open(path) as tar:
        names = [member.name for member in tar if not member.name.endswith(".tar")]
    class_tars = 2 * len(CLASSES) if split == "train" else 0  # their members; they hold no junk
    return len(names) + class_tars + members(patches)


def mess_tar_gz(root: Path, split: SplitName, junk: Sequence[Junk]) -> int:
    paths = sorted((root / "data").glob(f"{split}_images*.tar.gz"))
    for number, path in enumerate(paths):
        add_members(path, junk[number :: len(paths)], compressed=True)
    return sum(map(members, paths))


def mess_parquet(root: Path, split: SplitName, junk: Sequence[Junk]) -> int:
    path = next((root / "data").glob(f"{split}*.parquet"))
    rows = []
    for item in junk:
        class_name = CLASSES[item.position % len(CLASSES)]
        image = {"bytes": item.data if item.kind == "file" else None, "path": f"{item.name}_{class_name}.jpg"}
        rows.append({"image": image, "label": CLASSES.index(class_name)})
    table = parquet.read_table(path)
    if rows:
        added = pyarrow.Table.from_pylist(rows, schema=table.schema.remove_metadata())
        parquet.write_table(pyarrow.concat_tables([table, added]), path)
    return sum(parquet.read_table(part).num_rows for part in (root / "data").glob(f"{split}*.parquet"))


def mess_shards(root: Path, split: SplitName, junk: Sequence[Junk]) -> int:
    name = "validation" if split == "val" else split
    paths = sorted(root.glob(f"imagenet-{name}-*.tar"))
    # Two images with the key of one label have two readings, which are refused.
    keys = [item._replace(name=f"junk {number}/{item.name}") for number, item in enumerate(junk)]
    for number, path in enumerate(paths):
        add_members(path, keys[number :: len(paths)])
    (root / "README.md").write_text("read me")
    return sum(map(members, paths)) + 1


MESS: dict[str, Callable[[Path, SplitName, Sequence[Junk]], int]] = {
    "folder": mess_folder,
    "list": mess_list,
    "kaggle": mess_kaggle,
    "ilsvrc2012": mess_ilsvrc,
    "ilsvrc2010": mess_ilsvrc2010,
    "parquet": mess_parquet,
    "huggingface-tar": mess_tar_gz,
    "webdataset": mess_shards,
}


@pytest.fixture(autouse=True, scope="module")
def _without_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _descriptor: None)
        yield


@pytest.mark.parametrize("layout", MESS)
@settings(max_examples=14)
@given(junk=JUNK, split=st.sampled_from(["train", "val"]))
def test_what_a_source_holds_is_packed_rejected_or_ignored(layout: str, junk: list[Junk], split: SplitName) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "source", Path(folder) / "out"
        WRITERS[layout](root, IMAGES)
        seen = MESS[layout](root, split, junk)
        manifest = pack(request(source_path(root, layout, split), out, split, samples_per_shard=50)).manifest
        check_accounts(out, split)
        assert manifest.seen == seen


def check_accounts(out: Path, split: SplitName) -> None:
    """Check the numbers of a packed split against its shards, by reading its manifest again."""
    manifest = manifests.load(out / f"{split}.manifest.json")
    ignored = manifest.ignored or {}
    assert manifest.seen == manifest.images + len(manifest.rejected) + sum(ignored.values())
    assert all(rejection.file and rejection.reason for rejection in manifest.rejected)
    names: Counter[str] = Counter()
    for shard in manifest.shards:
        with tarfile.open(out / shard.name) as tar:
            names.update(Path(member.name).suffix for member in tar)
    assert names == {".jpg": manifest.images, ".cls": manifest.images}
