"""One set of images, written in every layout that pack reads: class folders, tars, parquet files, lists, shards."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet
from scipy.io import savemat

from support.folders import encoded, photo

CLASSES = ("n01440764", "n02105855", "n03347037", "n07583066", "n13037406")
DESCRIPTIONS = {name: f"thing {number}, Res {number}" for number, name in enumerate(CLASSES)}
# The development kit numbers the classes in another order than that of the sorted ids, and numbers hypernyms too.
KIT_NUMBERS = {"n03347037": 1, "n13037406": 2, "n01440764": 3, "n07583066": 4, "n02105855": 5}


@dataclass(frozen=True)
class Images:
    """Files by class, (name without extension, bytes); a validation name has its line number in the ground truth."""

    train: Mapping[str, list[tuple[str, bytes]]]
    val: Mapping[str, list[tuple[str, bytes]]]


def draw_images(train: int = 5, val: int = 2, photographs: Iterable[bytes] = ()) -> Images:
    """Draw images, or use photographs while there are any; the training images include one quirk of each kind.

    train, val: images per class, without the quirks.
    """
    remaining = iter(photographs)
    seeds = iter(range(1_000_000))

    def next_image() -> bytes:
        seed = next(seeds)
        return next(remaining, None) or encoded(photo(seed, 17 + seed % 9, 16 + seed % 7))

    files = {name: [(f"{name}_{10 * index}", next_image()) for index in range(train)] for name in CLASSES}
    for name, quirks in quirks_by_class().items():
        files[name] += [(f"{name}_9000{index}", quirk) for index, quirk in enumerate(quirks)]
    numbers = np.random.default_rng(3).permutation(len(CLASSES) * val) + 1
    names = iter(f"ILSVRC2012_val_{number:08d}" for number in numbers)
    return Images(files, {name: [(next(names), next_image()) for _ in range(val)] for name in CLASSES})


def quirks_by_class() -> dict[str, list[bytes]]:
    """Return files that need special handling although all are named .JPEG: two for each class."""
    whole = photo(77, 30, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [
        encoded(whole, "PNG"),
        encoded(Image.fromarray(whole).convert("CMYK")),
        encoded(Image.fromarray(whole).convert("L")),
        encoded(Image.fromarray(whole).convert("P"), "PNG"),
        encoded(Image.fromarray(whole[:, :, 0].astype(np.uint16) << 8), "PNG"),
        encoded(whole, exif=exif.tobytes() + b"noise"),
        encoded(whole)[:-200],
        b"",
        b"GIF89a" + bytes(200),
        encoded(whole, progressive=True),
    ]
    return {name: kinds[2 * label : 2 * label + 2] for label, name in enumerate(CLASSES)}


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def tar_of(files: Iterable[tuple[str, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=form) as tar:
        for name, data in files:
            add(tar, name, data)
    return content.getvalue()


def flat(files: Mapping[str, list[tuple[str, bytes]]]) -> list[tuple[str, str, bytes]]:
    """Return (class, name without extension, bytes) of all files, sorted by class and name."""
    return sorted((name, stem, data) for name, of_class in files.items() for stem, data in of_class)


def class_folders(root: Path, images: Images) -> Path:
    for split, files in (("train", images.train), ("val", images.val)):
        for name, stem, data in flat(files):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            (root / split / name / f"{stem}.JPEG").write_bytes(data)
    return root


def ground_truth(images: Images) -> str:
    by_stem = sorted((stem, name) for name, stem, _ in flat(images.val))
    return "".join(f"{KIT_NUMBERS[name]}\n" for _, name in by_stem)


def meta_mat(year: int) -> bytes:
    """Return the kit's table of synsets, including two hypernyms, which are not classes."""
    rows = [(number, name, DESCRIPTIONS[name], 0) for name, number in KIT_NUMBERS.items()]
    rows += [(6, "n00001740", "entity", 2), (7, "n00021939", "artifact", 3)]
    dtype = [(f"ILSVRC{year}_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    table = np.array([(number, name, text, "a gloss", children) for number, name, text, children in rows], dtype)
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        savemat(content, {"synsets": table.reshape(-1, 1)}, do_compression=True)
    return content.getvalue()


def ilsvrc2012(root: Path, images: Images) -> Path:
    inner = {
        f"{name}.tar": tar_of((f"{stem}.JPEG", data) for stem, data in of_class)
        for name, of_class in images.train.items()
    }
    root.mkdir(parents=True)
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_of(sorted(inner.items(), reverse=True)))
    (root / "ILSVRC2012_img_val.tar").write_bytes(
        tar_of(sorted((f"{stem}.JPEG", data) for _, stem, data in flat(images.val)))
    )
    kit = [
        ("ILSVRC2012_devkit_t12/readme.txt", b"read me"),
        ("ILSVRC2012_devkit_t12/data/meta.mat", meta_mat(2012)),
        ("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", ground_truth(images).encode()),
    ]
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(tar_of(kit)))
    return root


def ilsvrc2010(root: Path, images: Images) -> Path:
    """Write the archives of 2010: some images in the main ones are damaged, and intact in the patch."""
    root.mkdir(parents=True)
    patches: list[tuple[str, bytes]] = []

    def damage_some(stem: str, data: bytes) -> bytes:
        if stem.endswith(("0", "3")):
            patches.append((f"patch_images/{stem}.JPEG", data))
            return data[: len(data) // 2] or b"gone"
        return data

    inner = [
        (f"{name}.tar", tar_of([(f"{stem}.JPEG", damage_some(stem, data)) for stem, data in of_class]))
        for name, of_class in images.train.items()
    ]
    (root / "ILSVRC2010_images_train.tar").write_bytes(tar_of(inner))
    renamed = sorted((stem.replace("2012", "2010"), data) for _, stem, data in flat(images.val))
    (root / "ILSVRC2010_images_val.tar").write_bytes(
        tar_of((f"val/{stem}.JPEG", damage_some(stem, data)) for stem, data in renamed)
    )
    test = [(f"test/{stem.replace('val', 'test')}.JPEG", data) for stem, data in renamed]
    (root / "ILSVRC2010_images_test.tar").write_bytes(tar_of(test))
    (root / "patch_images.tar").write_bytes(tar_of(patches))
    (root / "ILSVRC2010_test_ground_truth.txt").write_text(ground_truth(images))
    (root / "devkit-1.0" / "data").mkdir(parents=True)
    (root / "devkit-1.0" / "data" / "meta.mat").write_bytes(meta_mat(2010))
    (root / "devkit-1.0" / "data" / "ILSVRC2010_validation_ground_truth.txt").write_text(ground_truth(images))
    return root


def kaggle(root: Path, images: Images) -> Path:
    data_folder = root / "ILSVRC" / "Data" / "CLS-LOC"
    class_folders(data_folder, Images(images.train, {}))
    (data_folder / "val").mkdir()
    (data_folder / "test").mkdir()
    for _, stem, data in flat(images.val):
        (data_folder / "val" / f"{stem}.JPEG").write_bytes(data)
    rows = [f"{stem},{name} 1 2 30 40 {name} 5 6 7 8 " for name, stem, _ in flat(images.val)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")
    (root / "LOC_synset_mapping.txt").write_text(
        "".join(f"{name} {description}\n" for name, description in DESCRIPTIONS.items())
    )
    return root


def named_by_class(files: Mapping[str, list[tuple[str, bytes]]]) -> list[tuple[str, str, bytes]]:
    """Return (name as on Hugging Face, class, bytes) of all files in a shuffled order."""
    named = [(f"{stem}_{name}.JPEG", name, data) for name, stem, data in flat(files)]
    return [named[index] for index in np.random.default_rng(5).permutation(len(named))]


def huggingface_tar(root: Path, images: Images) -> Path:
    (root / "data").mkdir(parents=True)
    train, val = named_by_class(images.train), named_by_class(images.val)
    for number in range(3):
        content = tar_of(((name, data) for name, _, data in train[number::3]), tarfile.PAX_FORMAT)
        (root / "data" / f"train_images_{number}.tar.gz").write_bytes(gzip.compress(content))
    content = tar_of((f"val/{name}", data) for name, _, data in val)
    (root / "data" / "val_images.tar.gz").write_bytes(gzip.compress(content))
    return root


def table_of(rows: list[tuple[str, str, bytes]], **metadata: Any) -> pyarrow.Table:
    table = pyarrow.table(
        {
            "image": [{"bytes": data, "path": name} for name, _, data in rows],
            "label": [CLASSES.index(class_name) for _, class_name, _ in rows],
        }
    )
    return table.replace_schema_metadata({"huggingface": json.dumps(metadata)}) if metadata else table


def parquet_files(root: Path, images: Images) -> Path:
    (root / "data").mkdir(parents=True)
    train, val = named_by_class(images.train), named_by_class(images.val)
    for number in range(2):
        path = root / "data" / f"train-{number:05d}-of-00002.parquet"
        parquet.write_table(table_of(train[number::2]), path, row_group_size=4)
    parquet.write_table(table_of(val), root / "data" / "validation-00000-of-00001.parquet")
    return root


def webdataset(root: Path, images: Images) -> Path:
    root.mkdir(parents=True)
    for split, files, shards in (("train", images.train, 3), ("validation", images.val, 1)):
        rows = named_by_class(files)
        for number in range(shards):
            members: list[tuple[str, bytes]] = []
            for name, class_name, data in rows[number::shards]:
                key = name.removesuffix(".JPEG") if split != "train" else name.rsplit("_", 1)[0]
                label = str(CLASSES.index(class_name)).encode()
                members += [(f"{key}.cls", label), (f"{key}.json", b"{}"), (f"{key}.JPEG", data)]
            (root / f"imagenet-{split}-{number:04d}.tar").write_bytes(tar_of(members, tarfile.USTAR_FORMAT))
    return root


def named_shards(root: Path, images: Images, image_field: str = "jpg", label_field: str = "cls") -> Path:
    """Write shards of others, three for each split: the labels are the classes' names, which the keys do not have."""
    root.mkdir(parents=True)
    for split, files in (("train", images.train), ("val", images.val)):
        rows = flat(files)
        for number in range(3):
            members: list[tuple[str, bytes]] = []
            for name, stem, data in rows[number::3]:
                members += [(f"{stem}.{label_field}", name.encode()), (f"{stem}.{image_field}", data)]
            (root / f"{split}-{number:04d}.tar").write_bytes(tar_of(members, tarfile.USTAR_FORMAT))
    return root


def image_lists(root: Path, images: Images) -> Path:
    class_folders(root, images)
    for split, files in (("train", images.train), ("val", images.val)):
        rows = [f"{split}/{name}/{stem}.JPEG\t{name}\n" for name, stem, _ in flat(files)]
        (root / f"{split}.txt").write_text("# path, class\n\n" + "".join(rows[::-1]))
    return root


WRITERS: Mapping[str, Callable[[Path, Images], Path]] = {
    "folder": class_folders,
    "ilsvrc2012": ilsvrc2012,
    "ilsvrc2010": ilsvrc2010,
    "kaggle": kaggle,
    "huggingface-tar": huggingface_tar,
    "parquet": parquet_files,
    "webdataset": webdataset,
    "list": image_lists,
}


def source_path(root: Path, layout: str, split: str) -> Path:
    """Return the SOURCE of a split for pack: the list of the split, or the root of any other layout."""
    return root / f"{split}.txt" if layout == "list" else root
