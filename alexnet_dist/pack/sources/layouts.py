"""The layouts of sources: detect which one a source has, and list a split of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from alexnet_dist.data.choices import SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources import class_tars, folders, huggingface, ilsvrc, kaggle, lists, webdataset
from alexnet_dist.pack.sources.fields import DETECTED
from alexnet_dist.pack.sources.listing import ImageSource, StreamSource, apply_holdout
from alexnet_dist.pack.sources.names import ARCHIVE_ENDINGS, PARQUET, TAR_GZ, listed, readable, split_of
from alexnet_dist.pack.sources.options import BY_ITSELF, ReadOptions
from alexnet_dist.pack.sources.split_folders import NO_CLASS_NAMES, WrongFolderError, has_images, visible_folders

# How far from SOURCE, in levels of folders and folders a level, the one that was probably meant is searched.
LEVELS_ABOVE, LEVELS_BELOW, SEARCH_FOLDERS = 4, 3, 100


def list_split(
    root: Path,
    layout: str,
    split: SplitName,
    holdout: float | None,
    seed: int,
    train_classes: tuple[str, ...] | None,
    reading: ReadOptions = BY_ITSELF,
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
    _check_options_apply(root, detected, reading)
    if detected in (PARQUET, TAR_GZ):
        if holdout is not None:
            raise UserError(f"--holdout: {root} can only be read sequentially and cannot be divided; pack its own val")
        stream = huggingface.list_containers(root, detected, split, reading)
        return replace(stream, notes=stream.notes + _unread_folders(root, layout, detected))
    source = _list_files(root, detected, split, holdout, train_classes, reading)
    notes = _unlike_its_name(source.folder, split) if detected == "folder" and holdout is None else ()
    source = replace(source, notes=source.notes + notes + _unread_folders(root, layout, detected))
    return source if holdout is None else apply_holdout(source, split, holdout, seed)


def _list_files(
    root: Path,
    layout: str,
    split: SplitName,
    holdout: float | None,
    train_classes: tuple[str, ...] | None,
    reading: ReadOptions,
) -> ImageSource:
    # A holdout divides the training split.
    source_split, allow_missing = split if holdout is None else "train", reading.allow_missing
    if layout == "folder":
        try:
            return folders.list_split(root, split, holdout, train_classes)
        except WrongFolderError as error:
            raise UserError(f"{error}{_advice(root, list(probable_sources(root)))}") from None
    if layout == "kaggle":
        return kaggle.list_split(root, source_split, train_classes, allow_missing)
    if layout == "list":
        return lists.list_images(root, train_classes)
    if layout == "webdataset":
        return webdataset.list_split(root, source_split, train_classes, reading.fields, allow_missing=allow_missing)
    return ilsvrc.list_split(root, int(layout.removeprefix("ilsvrc")), source_split, train_classes, allow_missing)


def _check_options_apply(root: Path, layout: str, reading: ReadOptions) -> None:
    """Raise UserError for an option that says how to read another layout, because it would do nothing."""
    for options, names, of_layout, what in (
        (reading.fields, "--image-field and --label-field", "webdataset", "samples in shards"),
        (reading.columns, "--image-column and --label-column", PARQUET, "parquet files"),
    ):
        if options != DETECTED and layout != of_layout:
            raise UserError(f"{root}: {names} are for {what}, but its layout is {layout}: remove them")


def _unread_folders(root: Path, layout: str, detected: str) -> tuple[str, ...]:
    """Return a note if a source that was detected by its archives or tables has class folders of a split too."""
    if layout != "auto" or detected in ("folder", "list", "webdataset"):
        return ()
    trains = [folder for folder in visible_folders(root) if split_of(folder.name) and visible_folders(folder)]
    names = listed([f"{readable(folder.name)}/" for folder in trains])
    note = f"{root}: read as layout {detected}; {names} not read: for class folders, add --layout folder"
    return (note,) if trains else ()


def _unlike_its_name(folder: Path, split: SplitName) -> tuple[str, ...]:
    """Return a note if a folder that is named for one split is packed as another one."""
    named = split_of(folder.resolve().name)
    if named in (None, split) or (named, split) == ("test", "val"):
        return ()
    return (f"{folder}: is called like {named} and packed as {split}: if that is not meant, use --split {named}",)


def detect_layout(root: Path) -> str:
    """Return the layout of a source; raises UserError if it does not exist or could have two layouts."""
    if root.is_file():
        if root.name.lower().endswith(ARCHIVE_ENDINGS):
            raise UserError(f"{root}: an archive; expected the folder with it as SOURCE: {root.parent}")
        return "list"
    if not root.is_dir():
        raise UserError(f"{root}: no such folder or file; expected a folder of images, a folder of archives, or a list")
    layouts = dict(_layouts_in(root))
    if len(layouts) > 1:
        signs = " and ".join(layouts.values())
        choices = " or ".join(f"--layout {layout}" for layout in layouts)
        raise UserError(f"{root}: has {signs}; choose one with {choices}")
    return next(iter(layouts), "folder")


def _layouts_in(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each layout that a folder could have, with what shows it; class folders only beside shards."""
    archives = {
        year: next((name for name in of_year.values() if (root / name).is_file()), None)
        for year, of_year in ilsvrc.ARCHIVES.items()
    }
    class_tar_folder = class_tars.class_tar_folder(root)
    if class_tar_folder is not None and not any(archives.values()):
        archives[2012] = f"class tars (n*.tar) in {class_tar_folder.name}/"
    yield from ((f"ilsvrc{year}", name) for year, name in archives.items() if name is not None)
    if (root / kaggle.IMAGES).is_dir():
        yield "kaggle", f"{kaggle.IMAGES}/"
    for layout in huggingface.PATTERNS:
        containers = [huggingface.containers_by_split(folder, layout) for folder in (root / "data", root)]
        paths = [paths[0] for of_folder in containers for split, paths in of_folder.items() if split is not None]
        if paths:
            yield layout, readable(str(paths[0].relative_to(root)))
    if any(archives.values()) and class_tar_folder != root:
        return
    shards = class_tars.other_tars(root)
    if not shards:
        return
    yield "webdataset", "shards (*.tar)"
    classes = [path.name for path in visible_folders(root)]
    if classes and not any(archives.values()):
        yield "folder", f"the folder {readable(classes[0])}/"


def probable_sources(root: Path) -> Iterator[Path]:
    """Yield the folders near `root` that are sources: above it for Kaggle's tree, else on the first level below it."""
    above = root.resolve().parents
    yield from [folder for folder in above[:LEVELS_ABOVE] if (folder / kaggle.IMAGES).is_dir()][:1]
    level = [root]
    for _ in range(LEVELS_BELOW):
        level = [inner for folder in level for inner in visible_folders(folder)][:SEARCH_FOLDERS]
        sources = [folder for folder in level if _is_source(folder)]
        if sources:
            yield from sources
            return


def _is_source(folder: Path) -> bool:
    """Return whether a folder has a known layout: archives, folders for splits, or class folders with images."""
    if any(_layouts_in(folder)):
        return True
    inside = visible_folders(folder)
    trains = [inner for inner in inside if split_of(inner.name) == "train"]
    return any(visible_folders(train) for train in trains) or any(
        has_images(inner)
        for inner in inside
        if split_of(inner.name) is None and inner.name.lower() not in NO_CLASS_NAMES
    )


def _advice(root: Path, sources: list[Path]) -> str:
    if not sources:
        return ""
    split = split_of(sources[0].name) if len(sources) == 1 else None
    options = f", with --split {split}" if split else ""
    return f". SOURCE is probably {listed([str(source) for source in sources])}{options}, not {root}"
