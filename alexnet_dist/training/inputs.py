"""TODO."""

from __future__ import annotations

from collections.abc import Mapping

from alexnet_dist import config
from alexnet_dist.config import Config
from alexnet_dist.data import remote
from alexnet_dist.data.loader import Loader
from alexnet_dist.data.plan import lanes_of, micro_batch, replica_slots
from alexnet_dist.data.prefetcher import needed_bytes
from alexnet_dist.data.reader import Split
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.errors import UserError
from alexnet_dist.training.run_plan import RunPlan

# What each rank may have for itself: where things are on its node, how it works there.
OWN_KEYS = (
    "data.root", "data.cache", "data.cache_bytes", "data.workers", "metrics.address", "metrics.port", "topology.layout",
    "train.device",
)  # fmt: skip


def open_splits(settings: Config) -> dict[str, Split]:
    """Open the training shards and, unless the run never evaluates, the validation shards.

    Raises UserError when they are missing, damaged, or not what the net is made for.
    """
    root = remote.locate(settings.data.root, settings.data.cache, settings.data.cache_bytes)
    names = ["train", "val"] if settings.run.evaluate_every else ["train"]
    splits = {name: Split.open(root, name) for name in names}
    classes = [described.name for described in splits["train"].manifest.classes]
    if len(classes) != settings.model.classes:
        raise UserError(
            f"model.classes: {settings.model.classes}, but the shards in {root} have {len(classes)} classes;"
            f" set model.classes={len(classes)}"
        )
    for name, split in splits.items():
        if split.manifest.size < settings.data.crop:
            raise UserError(
                f"data.crop: {settings.data.crop} is larger than the {split.manifest.size}-pixel images of {name} in"
                f" {root}; pack with a larger --size, or lower data.crop (7/8 of the size is the paper's choice)"
            )
        if [described.name for described in split.manifest.classes] != classes:
            raise UserError(f"{root}: train and {name} have different classes; pack both from the same source")
    if splits[names[-1]].manifest.size != splits["train"].manifest.size:
        raise UserError(f"{root}: train and val were packed with different sizes; pack both with the same --size")
    return splits


def alike(settings: Config, splits: Mapping[str, Split]) -> dict[str, str]:
    """Return, by name, what all ranks of a run must have in common of the configuration and the data."""
    values = {key: str(value) for key, value in config.flat(settings).items() if key not in OWN_KEYS}
    return values | {f"data.root's {name} manifest": split.manifest.sha256[:12] for name, split in splits.items()}


def programme_of(settings: Config, splits: dict[str, Split], place: Topology) -> RunPlan:
    """Return the run's programme; UserError when the global batch does not fit the ranks or the training set."""
    needed = place.world_size * settings.train.accumulate
    if settings.data.global_batch < needed:
        raise UserError(
            f"data.global_batch: {settings.data.global_batch} is smaller than {needed}: each of {place.world_size}"
            f" ranks decodes at least one image for each of {settings.train.accumulate} micro-batch(es);"
            " raise it or start fewer ranks"
        )
    images = splits["train"].images
    if settings.data.global_batch > images:
        raise UserError(
            f"data.global_batch: {settings.data.global_batch} is more than the {images} training images in"
            f" {settings.data.root}; lower it or pack more images"
        )
    steps = settings.run.steps
    if steps is None:
        steps = settings.run.epochs * (images // settings.data.global_batch)
    return RunPlan(
        counts=splits["train"].counts,
        seed=settings.run.seed,
        global_batch=settings.data.global_batch,
        lanes=settings.data.lanes,
        window=settings.data.window,
        accumulate=settings.train.accumulate,
        steps=steps,
        validation_images=splits["val"].images if "val" in splits else 0,
        validation_rows=settings.data.eval_rows,
        evaluate_every=settings.run.evaluate_every,
    )


def cache_room(
    settings: Config, splits: dict[str, Split], programme: RunPlan, place: Topology, local_ranks: int
) -> str | None:
    """Return a line on what the node needs of data.cache_bytes, None for local shards; UserError where it has less.

    local_ranks: ranks on this node.
    """
    if not isinstance(splits["train"].root, remote.Remote):
        return None
    ranks_per_replica = 2 // len(place.towers)
    first = (place.rank - place.local_rank) // ranks_per_replica
    end = first + local_ranks // ranks_per_replica
    slots = [replica_slots(replica, place.replicas, programme.global_batch) for replica in (first, end - 1)]
    lanes = lanes_of(slots[0][0], slots[1][1], programme.global_batch, programme.lanes)
    needed = needed_bytes(splits["train"], lanes, programme.window, splits.get("val"), local_ranks)
    limit = settings.data.cache_bytes
    if limit < needed:
        raise UserError(
            f"data.cache_bytes: {limit:,} is less than the {needed:,} bytes of remote shards that this node reads at"
            f" once: {lanes} lanes x (data.window = {programme.window} samples + 2 shards); raise it, or lower"
            " data.window or data.lanes"
        )
    return (
        f"remote shards: {lanes} lanes of {settings.data.root} need {needed / 1e9:.3g} GB of data.cache_bytes ="
        f" {limit / 1e9:.3g} GB in {settings.data.cache}"
    )


def open_loader(
    settings: Config, splits: dict[str, Split], programme: RunPlan, place: Topology, local_ranks: int
) -> Loader:
    """Fork this rank's loader processes, with a ring for the largest batch this rank decodes.

    local_ranks: ranks on this node, which share the room for remote shards.
    """
    slots = replica_slots(place.replica, place.replicas, programme.global_batch)
    spans = [micro_batch(index, programme.accumulate, *slots) for index in range(programme.accumulate)]
    batches = [end - first for first, end in spans] + ([programme.validation_rows] if "val" in splits else [])
    rows = max(batches) if len(place.towers) == 2 else (max(batches) + 1) // 2
    return Loader(
        splits,
        seed=settings.run.seed,
        crop=settings.data.crop,
        rows=rows,
        workers=settings.data.workers,
        max_bad_fraction=settings.data.max_bad_fraction,
        ahead_bytes=settings.data.cache_bytes // local_ranks,
    )
