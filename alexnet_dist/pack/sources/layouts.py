"""Which layout a source has, seen from what lies in it, and the split that it so holds."""

from __future__ import annotations

from pathlib import Path

from alexnet_dist.data.manifest import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources import folders, huggingface, ilsvrc, kaggle, lists, webdataset_shards
from alexnet_dist.pack.sources.source import Source, Stream, divide

LAYOUTS = (
    "auto",
    "folder",
    "ilsvrc2012",
    "ilsvrc2010",
    "kaggle",
    huggingface.PARQUET,
    huggingface.TAR_GZ,
    "webdataset",
    "list",
)


def find(
    root: Path, layout: str, split: SplitName, holdout: float | None, seed: int, train: tuple[str, ...] | None
) -> Source | Stream:
    """List a split of a source, or the containers to read it from.

    layout: one of LAYOUTS. train: the classes of the packed training split, where there is one, in the order of the
    labels. Raises UserError for what cannot be packed as it stands.
    """
    found = recognise(root) if layout == "auto" else layout
    if found != "list" and not root.is_dir():
        raise UserError(f"{root}: expected a folder for layout {found}")
    if holdout is not None and split == "test":
        raise UserError("--holdout divides a set into train and val; there is no test in it")
    if found in (huggingface.PARQUET, huggingface.TAR_GZ):
        if holdout is not None:
            raise UserError(f"--holdout: {root} can only be read from front to back and is not divided; pack its val")
        return huggingface.find(root, found, split)
    source = _listed(root, found, split, holdout, train)
    return source if holdout is None else divide(source, split, holdout, seed)


def _listed(root: Path, layout: str, split: SplitName, holdout: float | None, train: tuple[str, ...] | None) -> Source:
    # A set that is to be divided is listed as the training set that it is.
    listed_split = split if holdout is None else "train"
    if layout == "folder":
        return folders.find(root, split, holdout, train)
    if layout == "kaggle":
        return kaggle.find(root, listed_split, train)
    if layout == "list":
        return lists.find(root, train)
    if layout == "webdataset":
        return webdataset_shards.find(root, listed_split, train)
    return ilsvrc.find(root, int(layout.removeprefix("ilsvrc")), listed_split, train)


def recognise(root: Path) -> str:
    """Return the layout of a source; raises UserError where it is none, or could be two."""
    if root.is_file():
        return "list"
    if not root.is_dir():
        raise UserError(f"{root}: no such folder or file; expected a folder of images, of archives, or a list")
    for year, archives in ilsvrc.ARCHIVES.items():
        if any((root / name).is_file() for name in archives.values()):
            return f"ilsvrc{year}"
    if (root / kaggle.IMAGES).is_dir():
        return "kaggle"
    for folder in (root / "data", root):
        for kind, patterns in huggingface.PATTERNS.items():
            if any(next(folder.glob(pattern), None) for several in patterns.values() for pattern in several):
                return kind
    # A class folder may be called so, too.
    if not any(path.is_file() for path in root.glob("*.tar")):
        return "folder"
    classes = [path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if classes:
        raise UserError(
            f"{root}: has shards (*.tar) and the folder {classes[0]}/; say which is meant by --layout webdataset or "
            "--layout folder"
        )
    return "webdataset"
