"""Checks what OUT already holds before packing starts: files of another set are never overwritten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from alexnet_dist.data import manifest as manifests
from alexnet_dist.data.choices import SplitName
from alexnet_dist.data.manifest import Manifest, Options, SourceId
from alexnet_dist.data.pairing import PIXEL_OPTIONS
from alexnet_dist.errors import UserError
from alexnet_dist.pack.records import how_to_start_over, records_folder
from alexnet_dist.pack.request import PackRequest
from alexnet_dist.pack.sources.classes import describe_difference
from alexnet_dist.system.files import lock_file, replace_file

# Increased by every change of the code that changes the bytes of a shard.
PACK_VERSION = 3
LIBRARIES = ("numpy", "pillow", "simplejpeg", "torch")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that determine the bytes of a shard."""
    return {name: version(name) for name in LIBRARIES}


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of OUT, until the process ends at the latest; raises UserError if another pack holds it."""
    lock = lock_file(out / ".pack.lock")
    if lock is None:
        raise UserError(f"{out}: another pack is writing into this folder. Wait until it ends, or stop it")
    with lock:
        yield


def load_if_packed(out: Path, split: SplitName) -> Manifest | None:
    """Return the manifest of a packed split; None if it is not packed."""
    path = manifests.manifest_path(out, split)
    return manifests.load(path) if path.exists() else None


def check_same(packed: Manifest, request: PackRequest, source: SourceId) -> None:
    """Check that a packed split is complete and has the requested settings; raises UserError with what differs."""
    differences = _differences(_settings(packed.options, packed.source), _settings(request.options, source))
    start_over = how_to_start_over(request.out, request.split)
    if differences:
        raise UserError(
            f"{request.out}: {request.split} is already packed with other settings: {differences}. Pack into another "
            f"folder, or start over: {start_over}"
        )
    for shard in packed.shards:
        path = request.out / shard.name
        if not path.is_file() or path.stat().st_size != shard.size_bytes:
            raise UserError(
                f"{path}: missing, or not of {shard.size_bytes} bytes as in the manifest. Start over: {start_over}"
            )


def check_compatible(other: Manifest, request: PackRequest, source: SourceId) -> None:
    """Check that a split and another one in OUT have one size and share no image; raises UserError."""
    options, prefix = request.options, f"{request.out}: {other.split} is already packed"
    if other.options.size != options.size:
        raise UserError(
            f"{prefix} with --size {other.options.size}: pack {request.split} with the same size, not {options.size}"
        )
    other_source, this_source = _describe(other.source), _describe(source)
    if other.options.holdout is None and options.holdout is None:
        if other_source == this_source:
            raise UserError(
                f"{prefix} from the same files, but a validation set must hold different ones. Start over and pack "
                f"both splits with --holdout 0.1, or pack {request.split} from its own folder"
            )
    elif (other.options.holdout, other.options.seed, other_source) != (options.holdout, options.seed, this_source):
        raise UserError(
            f"{prefix} with --holdout {other.options.holdout} --seed {other.options.seed} from {other_source}, "
            f"and {request.split} is requested with --holdout {options.holdout} --seed {options.seed} from "
            f"{this_source}: the two could share images. Pack both splits from the same files, with the same --holdout "
            "and --seed"
        )


def differences_from(other: Manifest, request: PackRequest) -> str | None:
    """Return how the images of a split are encoded unlike those of another one in OUT, or None."""
    differing = [key for key in PIXEL_OPTIONS if getattr(other.options, key) != getattr(request.options, key)]
    if not differing:
        return None
    packed, requested = (
        " ".join(f"--{key} {getattr(options, key)}" for key in differing)
        for options in (other.options, request.options)
    )
    return (
        f"{request.out}: {other.split} is packed with {packed}, and {request.split} with {requested}: a net would be "
        "trained and evaluated on images that are encoded unlike each other"
    )


def check_classes(other: Manifest, request: PackRequest, classes: tuple[str, ...]) -> None:
    """Check that a split has the classes of another one in OUT, because labels are indices into them."""
    packed = tuple(described.name for described in other.classes)
    if packed != classes:
        raise UserError(
            f"{request.out}: {other.split} is already packed with {len(packed)} classes, but the classes of this "
            f"source differ ({len(classes)}): {describe_difference(classes, packed)}. If {other.split} lacks classes, "
            f"start over and pack train first: {how_to_start_over(request.out, other.split)}"
        )


def begin(request: PackRequest, source: SourceId) -> None:
    """Save the settings of a new pack, or check that an unfinished one has the same; raises UserError."""
    folder = records_folder(request.out, request.split)
    path = folder / "plan.json"
    settings = {**_settings(request.options, source), "pack version": PACK_VERSION}
    settings |= {f"{name} version": number for name, number in library_versions().items()}
    if path.exists():
        differences = _differences(json.loads(path.read_text()), settings)
        if differences and any(folder.glob("*.npz")):
            raise UserError(
                f"{folder}: belongs to an unfinished pack with other settings: {differences}. Finish that one with "
                "its own command, pack into another folder, or start over: "
                f"{how_to_start_over(request.out, request.split)}"
            )
        if not differences:
            return
        # That pack has finished nothing, for example because its SOURCE could not be read.
    foreign = sorted(request.out.glob(f"{request.split}-*.tar"))
    if foreign:
        raise UserError(
            f"{foreign[0]}: would be overwritten, but no manifest or record shows that this command wrote it. Pack "
            "into another folder, or move it away"
        )
    folder.mkdir(exist_ok=True)
    replace_file(path, json.dumps(settings, indent=1).encode())


def _settings(options: Options, source: SourceId | None) -> dict[str, object]:
    return {**asdict(options), "source": _describe(source)}


def _describe(source: SourceId | None) -> str:
    """Describe a source by what is known before reading it, so that the description is the same afterwards."""
    if source is None:
        return "an unknown source"
    if source.containers is not None:
        return f"archives ({source.containers[:12]})"
    return f"{source.files} files ({source.sha256[:12]})"


def _differences(packed: dict[str, object], requested: dict[str, object]) -> str:
    return ", ".join(
        f"{key} (packed with {packed.get(key)}, requested {requested.get(key)})"
        for key in sorted(packed | requested)
        if packed.get(key) != requested.get(key)
    )
