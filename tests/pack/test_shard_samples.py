"""What a shard's members are to pack: an image and its label, metadata of one, or rejected with a reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from alexnet_dist.data.choices import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.packing import pack
from alexnet_dist.pack.sources.fields import DETECTED, SampleFields
from alexnet_dist.pack.sources.listing import ImageSource
from alexnet_dist.pack.sources.shard_samples import METADATA_RULE, OTHER_FIELDS_RULE
from alexnet_dist.pack.sources.webdataset import list_split
from support.colours import colour_image
from support.folders import encoded, image_source, photo, request
from support.layouts import tar_of

JPEG = colour_image(1)


def write(root: Path, names: Sequence[str], name: str = "train-0.tar") -> Path:
    """Write a shard whose members hold a JPEG, or the class that follows = in a name, and return its folder."""
    members = [(member.partition("=")[0], member.partition("=")[2].encode() or JPEG) for member in names]
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(tar_of(members))
    return root


def listed(root: Path, names: str, image: str | None = None, label: str | None = None) -> ImageSource:
    """Return the listing of a shard of these members, after checking that all of them are accounted for."""
    members = names.split()
    source = list_split(write(root, members), "train", None, SampleFields(image, label))
    assert source.seen == len(members)
    assert source.seen == len(source.files) + len(source.rejected) + sum(source.ignored.values())
    return source


def packed(source: ImageSource) -> list[str]:
    return [file.name for file in source.files]


def rejected(source: ImageSource) -> dict[str, str]:
    return {rejection.file.removeprefix("train-0.tar: "): rejection.reason for rejection in source.rejected}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ("0.jpg 0.cls=a 1.jpg 1.cls=b", "a/0.jpg b/1.jpg"),
        ("n.0001.v2.jpg n.0001.v2.cls=a n.0002.v2.jpg n.0002.v2.cls=b", "a/n.0001.v2.jpg b/n.0002.v2.jpg"),
        ("s0.input.jpg s0.outputs.cls=a s1.input.jpg s1.outputs.cls=b", "a/s0.input.jpg b/s1.input.jpg"),
        ("n.1.in.jpg n.1.out.cls=a n.2.in.jpg n.2.out.cls=b", "a/n.1.in.jpg b/n.2.in.jpg"),
        ("0.webp 0.cls=a 1.JPEG 1.CLS=b 2.tiff 2.cls=a", "a/0.webp a/2.tiff b/1.JPEG"),
        ("0 0.cls=a 1.data 1.cls=b", "a/0 b/1.data"),
        ("0.jpg 1.jpg 0.cls=a 1.cls=b", "a/0.jpg b/1.jpg"),
        ("1.cls=b 0.cls=a 0.jpg 1.jpg", "a/0.jpg b/1.jpg"),
        ("0.jpg 0.cls=a 0.jpg 0.cls=b", "a/0.jpg b/0.jpg"),
        ("./0.jpg 0.cls=a x.y/1.jpg x.y/1.cls=b", "a/0.jpg b/1.jpg"),
    ],
)
def test_every_image_with_a_label_is_packed(tmp_path: Path, members: str, expected: str) -> None:
    source = listed(tmp_path, members)
    assert packed(source) == expected.split()
    assert source.rejected == ()
    assert source.ignored == {METADATA_RULE: len(source.files)}


def test_dots_in_keys_are_noted(tmp_path: Path) -> None:
    source = listed(tmp_path, "n.1.jpg n.1.cls=a n.2.jpg n.2.cls=b")
    assert source.notes == (f"{tmp_path}: names of members have dots in their keys; the key ends at the last dot",)
    assert listed(tmp_path, "s0.in.jpg s0.out.cls=a").notes == ()


@pytest.mark.parametrize(
    ("members", "reasons"),
    [
        ("1.jpg", {"1.jpg": "no .cls beside it"}),
        ("1.cls=a", {"1.cls": "no image beside it"}),
        ("1.json={} info.txt=x", {"1.json": "no image beside it", "info.txt": "no image beside it"}),
        ("0.npy=x README=x", {"0.npy": "neither an image nor .cls, .json or .txt",
                              "README": "neither an image nor .cls, .json or .txt"}),
        ("._0.jpg .DS_Store=x .git/1.jpg", dict.fromkeys(("._0.jpg", ".DS_Store", ".git/1.jpg"), "hidden")),
        ("1.jpg 1.jpg 1.cls=a", {"1.jpg": "a later member of the same name replaces it"}),
        ("1.jpg 1.JPG 1.cls=a", {"1.jpg": "1.JPG has the same key and field",
                                 "1.JPG": "1.jpg has the same key and field"}),
        ("1.jpg 1.cls=a 1.cls=b", {"1.jpg": "its labels differ: 'a' and 'b'"}),
        ("1.jpg 1.cls=a/b", {"1.jpg": "its .cls is 'a/b'"}),
    ],
)  # fmt: skip
def test_what_is_not_packed_is_listed(tmp_path: Path, members: str, reasons: dict[str, str]) -> None:
    source = listed(tmp_path, f"0.jpg 0.cls=a {members}")
    assert rejected(source) == reasons
    assert "a/0.jpg" in packed(source)


def test_metadata_beside_an_image_is_counted(tmp_path: Path) -> None:
    source = listed(tmp_path, "0.jpg 0.cls=a 0.json={} 0.txt=words 0.meta.json={} 0.cls=a")
    assert (packed(source), source.rejected, source.ignored) == (["a/0.jpg"], (), {METADATA_RULE: 5})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("0.jpg 0.png 0.cls=a", r"0\.jpg and 0\.png are images of one sample, 0, or of two.*-field jpg or --image"),
        ("0.jpg 0.thumb.jpg 0.cls=a", r"0\.jpg and 0\.thumb\.jpg are images of one sample, 0, or of two"),
        ("0.left.jpg 0.right.jpg 0.cls=a", "choose its field with --image-field left.jpg or --image-field right.jpg"),
        ("0.jpg 0.cls=a 0.fine.cls=b", "choose its field with --label-field cls or --label-field fine.cls"),
        ("0.a.jpg 0.cls=a 0.a.cls=b", r"0\.a\.jpg and 0\.cls could be one sample or parts of two"),
        ("n.1.jpg n.1.cls=a n.2.jpg n.2.cls=a 0.a.jpg 0.cls=a 0.a.cls=b",
         r"0\.a\.jpg and 0\.cls could be one sample or parts of two.* give --image-field a\.jpg --label-field cls"),
    ],
)  # fmt: skip
def test_two_readings_are_refused(tmp_path: Path, members: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"train-0\.tar: .*{message}"):
        listed(tmp_path, members)


@pytest.mark.parametrize(
    ("members", "image", "label", "expected"),
    [
        ("0.jpg 0.png 0.cls=a", "png", None, "a/0.png"),
        ("0.left.jpg 0.right.jpg 0.cls=a", "left.jpg", "cls", "a/0.left.jpg"),
        ("0.jpg 0.cls=a 0.fine.cls=b", None, "fine.cls", "b/0.jpg"),
        ("0.a.jpg 0.cls=a 0.a.cls=b", "a.jpg", "cls", "a/0.a.jpg"),
        ("0.a.jpg 0.cls=a 0.a.cls=b", "jpg", "cls", "b/0.a.jpg"),
        ("n.1.in.jpg n.1.out.cls=a n.2.in.jpg n.2.out.cls=b", "in.jpg", None, "a/n.1.in.jpg b/n.2.in.jpg"),
        ("0.jpg 0.txt=a 1.jpg 1.txt=b", None, ".txt", "a/0.jpg b/1.jpg"),
        ("0.jpg 0.cls=a 1.png 1.cls=b 1.thumb.jpg", "jpg;png", "cls", "a/0.jpg b/1.png"),
        ("0.in.jpg 0.cls=a 1.jpg 1.cls=b", "in.jpg;jpg", "cls", "a/0.in.jpg b/1.jpg"),
        ('0.jpg 0.cls=x 0.json={"label":"a"} 1.jpg 1.json={"label":7}', None, "json:label", "7/1.jpg a/0.jpg"),
        ('0.jpg 0.meta.json={"fine_label":"b"}', None, "meta.json:fine_label", "b/0.jpg"),
    ],
)
def test_fields_may_be_given(tmp_path: Path, members: str, image: str | None, label: str | None, expected: str) -> None:
    assert packed(listed(tmp_path, members, image, label)) == expected.split()


def test_other_fields_than_the_given_one_are_counted_or_listed(tmp_path: Path) -> None:
    source = listed(tmp_path, "0.jpg 0.cls=a 0.npy=x 0.png 1.png 1.cls=a", "jpg")
    assert source.ignored == {METADATA_RULE: 1, OTHER_FIELDS_RULE: 2}
    assert rejected(source) == {"1.png": "no .jpg beside it", "1.cls": "no image beside it"}


@pytest.mark.parametrize(
    "value", ['{"other": 1}', '{"label": null}', '{"label": true}', '{"label": [1]}', "[1]", "{", "[" * 9999]
)
def test_a_json_without_the_label_is_rejected(tmp_path: Path, value: str) -> None:
    members = [("0.jpg", JPEG), ("0.json", b'{"label": 3}'), ("1.jpg", JPEG), ("1.json", value.encode())]
    (tmp_path / "train-0.tar").write_bytes(tar_of(members))
    source = list_split(tmp_path, "train", None, SampleFields(label="json:label"))
    assert rejected(source) == {"1.jpg": "its .json has no text or whole number 'label'"}


@pytest.mark.parametrize(
    "fields",
    [SampleFields(label="cls:label"), SampleFields(label="json:"), SampleFields(image="a/b"), SampleFields(image="")],
)
def test_fields_that_cannot_be_are_refused(tmp_path: Path, fields: SampleFields) -> None:
    with pytest.raises(UserError, match="expected a field such as"):
        list_split(write(tmp_path, ["0.jpg", "0.cls=a"]), "train", None, fields)


def test_shards_without_labels_are_refused_with_the_option(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"0\.jpg: no \.cls beside it\. If another member has the label.*--label-field txt"
    ):
        listed(tmp_path, "0.jpg 0.txt=a")
    with pytest.raises(UserError, match=r"no images in 2 members: train-0\.tar: 0\.npy: neither an image"):
        listed(tmp_path, "0.npy=x 1.npy=x")


def test_tars_that_no_split_is_named_in_are_listed(tmp_path: Path) -> None:
    for name in ("train-0.tar", "val-0.tar", "extra-0.tar"):
        write(tmp_path, ["0.jpg", "0.cls=a"], name)
    for name in ("train-1.tar.gz", "val-1.tgz", "README.md", "train.json"):
        (tmp_path / name).write_bytes(b"x")
    source = image_source(tmp_path)
    assert [(rejection.file, rejection.reason.partition(",")[0]) for rejection in source.rejected] == [
        ("extra-0.tar", "its name has no split"),
        ("train-1.tar.gz", "a compressed tar; only plain tars are read: unpack it"),
    ]
    assert source.ignored == {METADATA_RULE: 1, "files beside the shards that are not tars": 2}
    assert source.seen == 6
    # Where no name has a split, all tars are of any split.
    write(tmp_path / "unnamed", ["0.jpg", "0.cls=a"], "a-0.tar")
    write(tmp_path / "unnamed", ["0.jpg", "0.cls=a"], "b-0.tar")
    assert len(image_source(tmp_path / "unnamed").files) == 2


def test_a_tar_of_two_splits_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ["0.jpg", "0.cls=a"], "train-val-0.tar")
    with pytest.raises(UserError, match=r"train-val-0\.tar: its name has two splits, train and val"):
        image_source(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_parts_that_names_promise_must_be_there(tmp_path: Path, split: SplitName) -> None:
    for number in (0, 2):
        write(tmp_path, [f"{number}.jpg", f"{number}.cls=a"], f"{split}-{number:05d}-of-00003.tar")
    with pytest.raises(UserError, match=rf"lacks 1 of the 3 files of {split}-\*-of-3: {split}-00001-of-00003\.tar"):
        list_split(tmp_path, split, None)
    assert len(list_split(tmp_path, split, None, allow_missing=True).missing) == 1


def test_gaps_in_the_numbers_of_shards_are_noted(tmp_path: Path) -> None:
    for number in (0, 3):
        write(tmp_path, [f"{number}.jpg", f"{number}.cls=a"], f"train-{number:05d}.tar")
    (note,) = image_source(tmp_path).notes
    assert "train-*.tar have gaps, such as 1 (2 up to 3)" in note


def test_images_are_judged_by_their_bytes(tmp_path: Path) -> None:
    """A PNG without an extension is packed, and what only its name calls an image is rejected when it is read."""
    members = [("0", encoded(photo(1), "PNG")), ("0.cls", b"a"), ("1.jpg", b"no image"), ("1.cls", b"a")]
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train-0.tar").write_bytes(tar_of(members))
    manifest = pack(request(tmp_path / "source", tmp_path / "out")).manifest
    assert manifest.images == 1
    assert [rejection.file for rejection in manifest.rejected] == ["a/1.jpg"]
    content = json.loads((tmp_path / "out" / "train.manifest.json").read_text())
    assert content["images"] + len(content["rejected"]) + sum(content["ignored"].values()) == 4
    assert list_split(tmp_path / "source", "train", None, DETECTED).seen == 4
