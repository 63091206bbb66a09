"""The benchmark ``train``: a whole run, from shards to updated weights, beside the same net in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.benchmark.contenders.plain_nets import SIDE
from alexnet_dist.benchmark.contenders.training_steps import LEARNING_RATE
from alexnet_dist.benchmark.rounds import Contender, Result, ratio
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import UserError

OURS, OURS_GRAPH = "ours", "ours, CUDA graph"
PLAIN = "plain PyTorch, WebDataset + Pillow"
COLUMNS = {"images_per_second": "images/s", "step_ms": "step ms", "data_wait_share": "data wait share"}
RATIOS = {"run_vs_plain": (OURS, PLAIN), "run_graph_vs_plain": (OURS_GRAPH, PLAIN)}
STEPS, STEPS_CUDA = 6, 50  # timed ones in a round, by default
WARM_UP, WARM_UP_CUDA = 3, 12  # steps
BATCHES_AHEAD = 2  # of each worker, in DataLoader's queue and in ours


@dataclass(frozen=True)
class RunSettings:
    """The work of each contender.

    shards: a packed set. classes: of the set. steps: timed ones. workers: processes that decode. threads: of the
    arithmetic. dtype: of the multiplications; with bfloat16 maps are in channels_last.
    """

    shards: Path
    classes: int
    batch: int
    steps: int
    workers: int
    threads: int
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def warm_up(self) -> int:
        """The steps that are not counted.

        A CUDA device may train faster than the workers decode: what they have decoded before must be used up.
        """
        return WARM_UP if self.device == "cpu" else WARM_UP_CUDA + BATCHES_AHEAD * self.workers

    @property
    def channels_last(self) -> bool:
        """Whether maps are in channels_last: on a device with tensor cores, bfloat16 is fastest in it."""
        return self.dtype == "bfloat16"


def classes_of(shards: Path, batch: int) -> int:
    """Return the number of classes of a packed set; UserError if the net cannot be trained on it."""
    split = Split.open(shards, "train")
    if split.manifest.size < SIDE:
        raise UserError(
            f"--shards: {shards}: images of {split.manifest.size} pixels; expected at least {SIDE}, which the paper's"
            " net reads: pack with --size 256"
        )
    if split.images < batch:
        raise UserError(
            f"--batch: {batch}; expected at most {split.images}, the images in {shards}: lower it or pack more"
        )
    return len(split.manifest.classes)


def contenders(settings: RunSettings, folder: Path) -> list[Contender]:
    """Return the contenders; folder: where runs have their directories."""
    ours = [Contender(OURS, "run", our_settings(settings, folder))]
    if settings.device == "cuda":
        ours.append(Contender(OURS_GRAPH, "run", our_settings(settings, folder, "train.cuda_graph=true")))
    return [*ours, Contender(PLAIN, "plain_run", plain_settings(settings), is_peer=True)]


def our_settings(settings: RunSettings, folder: Path, *words: str) -> dict[str, object]:
    """Return the settings of a run of ours; words: further ones of its command line."""
    steps = settings.warm_up + settings.steps
    command = {
        "data.root": settings.shards,
        "data.global_batch": settings.batch,
        "data.workers": settings.workers,
        "model.classes": settings.classes,
        "optim.learning_rate": LEARNING_RATE,
        "train.device": settings.device,
        "train.dtype": settings.dtype,
        "train.channels_last": str(settings.channels_last).lower(),
        "run.steps": steps,
        "run.save_every": steps,  # a run saves its last step in any case
        "run.log_every": 1,
        "run.evaluate_every": 0,
        "metrics.port": "null",
    }
    return {
        "words": ["--config", "one_gpu", *(f"{key}={value}" for key, value in command.items()), *words],
        "warm_up": settings.warm_up,
        "threads": settings.threads,
        "folder": str(folder),
    }


def plain_settings(settings: RunSettings) -> dict[str, object]:
    """Return the settings of the plain net's run."""
    return {
        "shards": str(settings.shards),
        "workers": settings.workers,
        "classes": settings.classes,
        "warm_up": settings.warm_up,
        "batch": settings.batch,
        "steps": settings.steps,
        "threads": settings.threads,
        "device": settings.device,
        "dtype": settings.dtype,
        "channels_last": settings.channels_last,
    }


def describe(settings: RunSettings) -> str:
    """Return what a run was, and which of its steps count, as text."""
    return (
        f"{settings.steps} steps of {settings.batch} images, after {settings.warm_up} that are not counted; not in"
        " these times: start-up, validation, checkpoints"
    )


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """Return the ratios of RATIOS whose contenders ran."""
    values = {name: ratio(results, ours, theirs) for name, (ours, theirs) in RATIOS.items()}
    return {name: value for name, value in values.items() if value is not None}
