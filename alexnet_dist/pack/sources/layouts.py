"""The layouts of sources: detect which one a source has, and list a split of it."""

from __future__ import annotations

from pathlib import Path

from alexnet_dist.data.choices import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources import folders, huggingface, ilsvrc, kaggle, lists, webdataset
from alexnet_dist.pack.sources.listing import ImageSource, StreamSource, apply_holdout
from alexnet_dist.pack.sources.names import PARQUET, TAR_GZ


def list_split(
    root: Path, layout: str, split: SplitName, holdout: float | None, seed: int, train_classes: tuple[str, ...] | None
) -> ImageSource | StreamSource:
    """List the files of a split, or the containers to read them from.

    layout: one of LAYOUTS. train_classes: of the packed training split, in the order of the labels; None if it is not
    packed. Raises UserError for a source that cannot be packed as it is.
    """
    detected = detect_layout(root) if layout == "auto" else layout
    if detected != "list" and not root.is_dir():
        raise UserError(f"{root}: expected a folder for layout {detected}")
    if holdout is not None and split == "test":
        raise UserError("--holdout divides a set into train and val, not test: remove --holdout")
    if detected in (PARQUET, TAR_GZ):
        if holdout is not None:
            raise UserError(f"--holdout: {root} can only be read sequentially and cannot be divided; pack its own val")
        return huggingface.list_containers(root, detected, split)
    source = _list_files(root, detected, split, holdout, train_classes)
    return source if holdout is None else apply_holdout(source, split, holdout, seed)


def _list_files(
    root: Path, layout: str, split: SplitName, holdout: float | None, train_classes: tuple[str, ...] | None
) -> ImageSource:
    # A holdout divides the training split.
    source_split = split if holdout is None else "train"
    if layout == "folder":
        return folders.list_split(root, split, holdout, train_classes)
    if layout == "kaggle":
        return kaggle.list_split(root, source_split, train_classes)
    if layout == "list":
        return lists.list_images(root, train_classes)
    if layout == "webdataset":
        return webdataset.list_split(root, source_split, train_classes)
    return ilsvrc.list_split(root, int(layout.removeprefix("ilsvrc")), source_split, train_classes)


def detect_layout(root: Path) -> str:
    """Return the layout of a source; raises UserError if it does not exist or could have two layouts."""
    if root.is_file():
        return "list"
    if not root.is_dir():
        raise UserError(f"{root}: no such folder or file; expected a folder of images, a folder of archives, or a list")
    for year, archives in ilsvrc.ARCHIVES.items():
        if any((root / name).is_file() for name in archives.values()):
            return f"ilsvrc{year}"
    if (root / kaggle.IMAGES).is_dir():
        return "kaggle"
    for folder in (root / "data", root):
        for layout, patterns in huggingface.PATTERNS.items():
            if any(next(folder.glob(pattern), None) for of_split in patterns.values() for pattern in of_split):
                return layout
    # Files only, because a class folder may have such a name too.
    if not any(path.is_file() for path in root.glob("*.tar")):
        return "folder"
    classes = [path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if classes:
        raise UserError(
            f"{root}: has shards (*.tar) and the folder {classes[0]}/; choose one with --layout webdataset or "
            "--layout folder"
        )
    return "webdataset"
