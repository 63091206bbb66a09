"""What a start of a run reads before its first step: the shards, the run plan, the room in the cache, the loader."""

from __future__ import annotations

from collections.abc import Mapping

from alexnet_dist import config as configs
from alexnet_dist.config import Config
from alexnet_dist.data import remote
from alexnet_dist.data.loader import Loader
from alexnet_dist.data.pairing import pixel_differences, shared_images
from alexnet_dist.data.plan import lanes_of, micro_batch, replica_slots
from alexnet_dist.data.prefetcher import needed_bytes
from alexnet_dist.data.reader import Split
from alexnet_dist.distributed.topology import Topology, resolve_topology
from alexnet_dist.errors import UserError
from alexnet_dist.system import resources
from alexnet_dist.system.environment import LaunchInfo
from alexnet_dist.system.wording import counted
from alexnet_dist.training import tensorboard
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.run_plan import RunPlan

# Keys in which ranks may differ: where things are on a node, and how it works there.
NODE_KEYS = (
    "data.root", "data.cache", "data.cache_bytes", "data.workers", "metrics.address", "metrics.port",
    "metrics.tls_cert", "metrics.tls_key", "metrics.password_file", "topology.layout", "train.device", "run.directory",
)  # fmt: skip
# Fractions of the packed side, of which the paper crops 7/8: below the first a run is refused, below the other warned.
MIN_CROP, USUAL_CROP = 1 / 4, 3 / 4


def open_run(config: Config, launched: LaunchInfo) -> RunContext:
    """Resolve the topology, open the shards and plan the run.

    Raises UserError for a layout, shards or a global batch that do not fit, or a package that is missing.
    """
    if config.run.tensorboard and launched.rank == 0:
        tensorboard.check_installed()
    section = config.topology
    towers = config.model.towers
    topology = resolve_topology(section.layout, config.train.device, launched, section.share_device, towers)
    splits = open_splits(config)
    return RunContext(config, launched, topology, splits, run_plan(config, splits, topology), configs.geometry(config))


def open_splits(config: Config) -> dict[str, Split]:
    """Open the training shards and, unless the run never evaluates, the validation shards.

    Raises UserError if they are missing, damaged, or do not fit the net.
    """
    root = remote.locate(config.data.root, config.data.cache, config.data.cache_bytes)
    names = ["train", "val"] if config.run.evaluate_every else ["train"]
    splits = {name: Split.open(root, name) for name in names}
    classes = [described.name for described in splits["train"].manifest.classes]
    if len(classes) != config.model.classes:
        raise UserError(
            f"model.classes: {config.model.classes}, but the shards in {root} have {len(classes)} classes;"
            f" set model.classes={len(classes)}"
        )
    for split in splits.values():
        _check_crop(config.data.crop, split)
    if "val" in splits:
        _check_pair(splits["train"], splits["val"])
    return splits


def _check_crop(crop: int, split: Split) -> None:
    """Raise UserError for a crop larger than the packed images, or so small that it shows only a detail of them."""
    size = split.manifest.size
    if size < crop:
        raise UserError(
            f"data.crop: {crop} is larger than the {size}-pixel images of {split.manifest.split} in {split.root};"
            f" pack with a larger --size, such as {_size_for(crop)}, or lower data.crop (7/8 of the size is the"
            " paper's choice)"
        )
    if crop < MIN_CROP * size:
        raise UserError(f"{_cropped(crop, split)}: only a detail; {_fixes(crop, size)}")


def _check_pair(train: Split, val: Split) -> None:
    """Raise UserError if the validation set cannot be meant for the training set."""
    classes, val_classes = ([item.name for item in split.manifest.classes] for split in (train, val))
    if val_classes != classes:
        raise UserError(f"{val.root}: train and val have different classes; pack both from the same source")
    if val.manifest.size != train.manifest.size:
        raise UserError(
            f"{val.root}: train and val were packed with different sizes, {train.manifest.size} and"
            f" {val.manifest.size} pixels; pack both with the same --size"
        )
    if shared := shared_images(train.manifest, val.manifest):
        raise UserError(
            f"{val.root}: train and val share images: {shared}; pack both with the same --holdout and --seed, or val"
            " from its own folder"
        )


def shard_warnings(run: RunContext) -> list[str]:
    """Return lines on what probably was not meant: an unusual crop, splits packed differently, an incomplete source.

    `open_splits` has refused what cannot be meant.
    """
    crop, train, val = run.config.data.crop, run.splits["train"], run.splits.get("val")
    warnings = []
    if crop < USUAL_CROP * train.manifest.size:
        warnings.append(f"warning: {_cropped(crop, train)}; {_fixes(crop, train.manifest.size)}")
    if val is not None and (differences := pixel_differences(train.manifest, val.manifest)):
        warnings.append(
            f"warning: train and val in {train.root} were packed differently: {differences}; the difference adds to the"
            " validation error: pack both with the same options"
        )
    for name, split in run.splits.items():
        if split.manifest.missing:
            warnings.append(
                f"warning: {name} in {split.root} was packed with --allow-missing; its source lacked:"
                f" {'; '.join(split.manifest.missing)}"
            )
    return warnings


def _cropped(crop: int, split: Split) -> str:
    size = split.manifest.size
    return (
        f"data.crop: {crop}, but the images in {split.root} have {size} pixels a side: the net sees"
        f" {crop * crop / size / size:.0%} of each picture (the paper: 7/8 of the side, {49 / 64:.0%})"
    )


def _fixes(crop: int, size: int) -> str:
    return (
        f"pack both splits with python -m alexnet_dist.pack SOURCE OUT --size {_size_for(crop)}, or set"
        f" data.crop={size * 7 // 8}"
    )


def _size_for(crop: int) -> int:
    """Return the packed size of which a crop is 7/8."""
    return round(crop * 8 / 7)


def must_match(run: RunContext) -> dict[str, str]:
    """Return, by name, what all ranks of a run must have in common of the configuration and the data."""
    values = {key: str(value) for key, value in configs.flat(run.config).items() if key not in NODE_KEYS}
    return values | {f"data.root's {name} manifest": split.manifest.sha256[:12] for name, split in run.splits.items()}


def run_plan(config: Config, splits: Mapping[str, Split], topology: Topology) -> RunPlan:
    """Return the run plan; UserError if the global batch does not fit the ranks or the training set."""
    needed = topology.world_size * config.train.accumulate
    if config.data.global_batch < needed:
        raise UserError(
            f"data.global_batch: {config.data.global_batch} is smaller than {needed}: each of {topology.world_size}"
            f" ranks decodes at least one image for each of {counted(config.train.accumulate, 'micro-batch')};"
            " raise it or start fewer ranks"
        )
    images = splits["train"].images
    if config.data.global_batch > images:
        raise UserError(
            f"data.global_batch: {config.data.global_batch} is more than the {images} training images in"
            f" {config.data.root}; lower it or pack more images"
        )
    steps = config.run.steps
    if steps is None:
        steps = config.run.epochs * (images // config.data.global_batch)
    return RunPlan(
        counts=splits["train"].counts,
        seed=config.run.seed,
        global_batch=config.data.global_batch,
        lanes=config.data.lanes,
        window=config.data.window,
        accumulate=config.train.accumulate,
        steps=steps,
        validation_images=splits["val"].images if "val" in splits else 0,
        validation_rows=config.data.eval_rows,
        evaluate_every=config.run.evaluate_every,
    )


def check_cache_room(run: RunContext) -> str | None:
    """Return a line on what this node needs of data.cache_bytes, None for local shards; UserError if it has less."""
    config, topology, plan, splits = run.config, run.topology, run.plan, run.splits
    if not isinstance(splits["train"].root, remote.Remote):
        return None
    local_ranks = run.launched.local_world_size
    ranks_per_replica = 2 // len(topology.towers)
    first = (topology.rank - topology.local_rank) // ranks_per_replica
    end = first + local_ranks // ranks_per_replica
    slots = [replica_slots(replica, topology.replicas, plan.global_batch) for replica in (first, end - 1)]
    lanes = lanes_of(slots[0][0], slots[1][1], plan.global_batch, plan.lanes)
    needed = needed_bytes(splits["train"], lanes, plan.window, splits.get("val"), local_ranks)
    limit = config.data.cache_bytes
    if limit < needed:
        raise UserError(
            f"data.cache_bytes: {limit:,} is less than the {needed:,} bytes of remote shards that this node reads at"
            f" once: {lanes} lanes x (data.window = {plan.window} samples + 2 shards); raise it, or lower data.window"
            " or data.lanes"
        )
    return (
        f"remote shards: {lanes} lanes of {config.data.root} need {needed / 1e9:.3g} GB of data.cache_bytes ="
        f" {limit / 1e9:.3g} GB in {config.data.cache}"
    )


def metrics_files(config: Config) -> tuple[str | None, str | None, str | None]:
    """Return the arguments of access.open_access; nothing is read if no metrics are served."""
    section = config.metrics
    return (None, None, None) if section.port is None else (section.tls_cert, section.tls_key, section.password_file)


def worker_count(run: RunContext) -> int:
    """Return the loader processes of a rank; "auto": those of its node's cores that the ranks leave, at least one."""
    workers = run.config.data.workers
    if workers != "auto":
        return workers
    return max(1, resources.cores() // run.launched.local_world_size - 1)


def open_loader(run: RunContext) -> Loader:
    """Fork this rank's loader processes, with a ring for the largest batch that this rank decodes."""
    config, topology, plan = run.config, run.topology, run.plan
    slots = replica_slots(topology.replica, topology.replicas, plan.global_batch)
    spans = [micro_batch(index, plan.accumulate, *slots) for index in range(plan.accumulate)]
    batches = [end - first for first, end in spans] + ([plan.validation_rows] if "val" in run.splits else [])
    rows = max(batches) if len(topology.towers) == 2 else (max(batches) + 1) // 2
    return Loader(
        run.splits,
        seed=config.run.seed,
        crop=config.data.crop,
        rows=rows,
        workers=worker_count(run),
        max_bad_fraction=config.data.max_bad_fraction,
        # The ranks of a node share the room for remote shards.
        ahead_bytes=config.data.cache_bytes // run.launched.local_world_size,
    )
