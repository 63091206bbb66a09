"""The layouts 'parquet' and 'huggingface-tar': ImageNet as published on Hugging Face.

These are parquet files, or tar.gz files of images named ``..._n01440764.JPEG``. Random access to either is too slow, so
both are streams: each container is read once, from start to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Rejected
from alexnet_dist.errors import UserError
from alexnet_dist.pack import gzip_tars, tars
from alexnet_dist.pack.sources.completeness import check_parts
from alexnet_dist.pack.sources.fields import DETECTED, SampleFields
from alexnet_dist.pack.sources.listing import LARGEST_FILE_BYTES, Container, StreamSource
from alexnet_dist.pack.sources.names import PARQUET, TAR_GZ, base_name, listed, readable
from alexnet_dist.pack.sources.options import BY_ITSELF, ReadOptions
from alexnet_dist.pack.sources.parquet_rows import read_parquet, unused_label_names
from alexnet_dist.pack.sources.stream_image import StreamImage, split_name

# In lower case; a name may have upper case too.
PATTERNS: Mapping[str, Mapping[SplitName, str]] = {
    PARQUET: {"train": "train*.parquet", "val": "val*.parquet", "test": "test*.parquet"},
    TAR_GZ: {"train": "train_images_*.tar.gz", "val": "val_images.tar.gz", "test": "test_images.tar.gz"},
}
ENDINGS: Mapping[str, str] = {PARQUET: ".parquet", TAR_GZ: ".tar.gz"}


def containers_by_split(folder: Path, layout: str) -> dict[SplitName | None, list[Path]]:
    """Return the files of a layout in a folder, sorted, by the split in their names; None: of no split."""
    containers: dict[SplitName | None, list[Path]] = {}
    for path in sorted(folder.glob("*")):
        name = path.name.lower()
        # Files only, because a class folder may have such a name too.
        if name.endswith(ENDINGS[layout]) and path.is_file():
            of_split = (split for split, pattern in PATTERNS[layout].items() if fnmatchcase(name, pattern))
            containers.setdefault(next(of_split, None), []).append(path)
    return containers


def list_containers(root: Path, layout: str, split: SplitName, options: ReadOptions = BY_ITSELF) -> StreamSource:
    """Return the containers of a split in `root` or root/data, sorted by name; raises UserError if there are none.

    Also raises UserError if the names of the containers say that some are missing, unless the options allow that.
    """
    by_folder = {folder: containers_by_split(folder, layout) for folder in (root / "data", root)}
    folders = [folder for folder, containers in by_folder.items() if split in containers]
    if not folders:
        pattern = PATTERNS[layout][split]
        raise UserError(f"{root}: holds no {pattern} for split {split}, and neither does its data/")
    if len(folders) > 1:
        first, second = (by_folder[folder][split][0] for folder in folders)
        raise UserError(f"{root}: {first} and {second} are both for split {split}: give {root}/data, or move one away")
    (folder,) = folders
    paths = by_folder[folder][split]
    complete = check_parts(folder, [path.name for path in paths], options.allow_missing)
    reason = f"its name has no split, unlike those of other files here, such as {readable(paths[0].name)}"
    return StreamSource(
        folder=root,
        layout=layout,
        containers=tuple(Container(str(path.relative_to(root)), path.stat().st_size) for path in paths),
        notes=complete.notes,
        missing=complete.missing,
        columns=options.columns,
        rejected=tuple(Rejected(readable(path.name), reason) for path in by_folder[folder].get(None, [])),
    )


def read_container(path: Path, layout: str, columns: SampleFields = DETECTED) -> Iterator[StreamImage]:
    """Yield the images of a container in their order; raises UserError naming it if it is damaged."""
    return read_parquet(path, columns) if layout == PARQUET else _read_tar(path)


def unused_classes(stream: StreamSource, classes: set[str]) -> tuple[str, ...]:
    """Return a note about the classes that a stream names and has no images of, if there are any."""
    if stream.layout != PARQUET:
        return ()
    unused = unused_label_names(stream.folder / stream.containers[0].path, stream.columns, classes)
    note = f"{stream.folder}: no row is of {listed(unused)}, which the files name as classes; they get no label"
    return (note,) if unused else ()


def _read_tar(path: Path) -> Iterator[StreamImage]:
    with gzip_tars.open_gzip(path) as stream:
        read_at = gzip_tars.ForwardReader(stream)
        for member in tars.members(read_at, str(path)):
            yield _member_image(path, member, read_at)._replace(container_read_bytes=stream.compressed_bytes)


def _member_image(path: Path, member: tars.Member, read_at: gzip_tars.ForwardReader) -> StreamImage:
    class_name, file_name = split_name(base_name(member.name))
    if not class_name:
        problem = member.problem or "its name does not end in a WordNet id"
        return StreamImage(member.name, "", b"", member.size_bytes, problem)
    name = f"{class_name}/{file_name}"
    if member.problem is not None or member.size_bytes > LARGEST_FILE_BYTES:
        return StreamImage(name, class_name, b"", member.size_bytes, member.problem)
    data = read_at(member.offset, member.size_bytes)
    if len(data) < member.size_bytes:
        raise UserError(f"{path}: ends inside {member.name:.100}: download it again")
    return StreamImage(name, class_name, data, member.size_bytes, None)
