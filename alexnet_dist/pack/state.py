"""What OUT holds when packing starts, and whether what is asked for fits it: nothing of another set is overwritten."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from alexnet_dist.data import manifest as manifests
from alexnet_dist.data.manifest import Manifest, Options, SourceId, SplitName
from alexnet_dist.errors import UserError
from alexnet_dist.files import replace_file
from alexnet_dist.pack.records import Job, records_folder
from alexnet_dist.pack.sources.source import difference

# Raised by any change of the code that changes the bytes of a shard.
PACK_VERSION = 2
LIBRARIES = ("numpy", "pillow", "simplejpeg", "torch")


@dataclass(frozen=True)
class Request:
    """A command: which split of which source, packed how and whereto."""

    source: Path
    out: Path
    split: SplitName
    options: Options
    layout: str = "auto"
    processes: int = 1
    max_rejected: int | None = None


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide the bytes of a shard."""
    return {name: version(name) for name in LIBRARIES}


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold OUT for this process; the lock ends with the process, however that ends."""
    with (out / ".pack.lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"{out}: another pack is writing into this folder. Wait for its end or stop it") from None
        yield


def load_if_packed(out: Path, split: SplitName) -> Manifest | None:
    """Return the manifest of a packed split, or None."""
    path = manifests.manifest_path(out, split)
    return manifests.load(path) if path.exists() else None


def check_same(packed: Manifest, request: Request, source: SourceId) -> None:
    """Check that a packed split is what is asked for again, and still there; raises UserError saying what differs."""
    there = _about(packed.options, packed.source)
    different = _differences(there, _about(request.options, source))
    if different:
        raise UserError(
            f"{request.out}: {request.split} is packed already, with other {different}. Pack into another folder, or "
            f"start over: {start_over(request)}"
        )
    for shard in packed.shards:
        path = request.out / shard.name
        if not path.is_file() or path.stat().st_size != shard.size_bytes:
            raise UserError(
                f"{path}: missing or not of {shard.size_bytes} bytes, as the manifest says. Start over: "
                f"{start_over(request)}"
            )


def check_fits(other: Manifest, request: Request, source: SourceId) -> None:
    """Check a split against another one of the same OUT: same size, and no image in both."""
    asked, name = request.options, f"{request.out}: {other.split} is packed there"
    if other.options.size != asked.size:
        raise UserError(
            f"{name} with --size {other.options.size}: pack {request.split} with the same, not {asked.size}"
        )
    there, here = _describe(other.source), _describe(source)
    if other.options.holdout is None and asked.holdout is None:
        if there == here:
            raise UserError(
                f"{name} from these very files, and a validation set must hold others. Start over and pack both splits "
                f"with --holdout 0.1, or give {request.split} its own folder"
            )
    elif (other.options.holdout, other.options.seed, there) != (asked.holdout, asked.seed, here):
        raise UserError(
            f"{name} with --holdout {other.options.holdout} --seed {other.options.seed} of {there}, "
            f"and {request.split} is asked for with --holdout {asked.holdout} --seed {asked.seed} of "
            f"{here}: the two could share images. Pack both splits of the same files with the same two"
        )


def check_classes(other: Manifest, request: Request, classes: tuple[str, ...]) -> None:
    """Check that a split has the classes of another one of the same OUT, because its labels are places among them."""
    packed = tuple(kind.name for kind in other.classes)
    if packed != classes:
        raise UserError(
            f"{request.out}: {other.split} is packed there with {len(packed)} classes, and this source has other ones "
            f"({len(classes)}): {difference(classes, packed)}"
        )


def begin(request: Request, source: SourceId) -> None:
    """Write the plan of a new pack, or check that the plan of an unfinished one is the same."""
    folder = records_folder(request.out, request.split)
    path = folder / "plan.json"
    plan = {**_about(request.options, source), "pack version": PACK_VERSION}
    plan |= {f"{name} version": number for name, number in library_versions().items()}
    if path.exists():
        different = _differences(json.loads(path.read_text()), plan)
        if different:
            raise UserError(
                f"{folder}: belongs to an unfinished pack with other {different}. Finish that one by its own command, "
                f"pack into another folder, or start over: {start_over(request)}"
            )
        return
    strangers = sorted(request.out.glob(f"{request.split}-*.tar"))
    if strangers:
        raise UserError(
            f"{strangers[0]}: would be overwritten, and no manifest or record says that this command made it. Pack "
            "into another folder, or move it away"
        )
    folder.mkdir(exist_ok=True)
    replace_file(path, json.dumps(plan, indent=1).encode())


def _about(options: Options, source: SourceId | None) -> dict[str, object]:
    return {**asdict(options), "source": _describe(source)}


def _describe(source: SourceId | None) -> str:
    """Name a source by what is known of it before it is read, so that it is named alike afterwards."""
    if source is None:
        return "an unknown source"
    if source.containers is not None:
        return f"archives ({source.containers[:12]})"
    return f"{source.files} files ({source.sha256[:12]})"


def _differences(there: dict[str, object], asked: dict[str, object]) -> str:
    return ", ".join(
        f"{key} ({there.get(key)} there, {asked.get(key)} asked for)"
        for key in sorted(there | asked)
        if there.get(key) != asked.get(key)
    )


def start_over(asked: Request | Job) -> str:
    """Return in words what is to be removed so that a split is packed anew."""
    out, split = asked.out, asked.split
    return f"delete {out}/{split}-*.tar, {out}/{split}.* and {records_folder(out, split)}"
