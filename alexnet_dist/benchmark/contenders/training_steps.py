"""The training steps of all contenders of ``step`` and ``scaling``, timed the same way, on a batch in memory.

A step is complete: forward with dropout, loss, backward, the sum over the replicas if there are several, and the
update. The first steps are not counted: they allocate memory and select convolution algorithms.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dist.benchmark.contenders import plain_nets
from alexnet_dist.benchmark.contenders.delayed_link import DelayedLink
from alexnet_dist.benchmark.contenders.rank_groups import gather, paired_ranks
from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.distributed.groups import Groups
from alexnet_dist.distributed.link import P2PLink
from alexnet_dist.distributed.tower_parallel import LinkedTower
from alexnet_dist.errors import RunError
from alexnet_dist.monitoring.device import peak_flops
from alexnet_dist.monitoring.timeline import LINK_WAIT, Timeline
from alexnet_dist.nn.geometry import training_flops
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.nn.precision import set_precision
from alexnet_dist.system import environment, resources
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.graph import GraphedStep
from alexnet_dist.training.optim import Rates, Rule
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.step import StepReport, new_engine, train_step

WARM_UP = 2  # steps
WARM_UP_CUDA = 6  # those before the capture of a graph, the capture, and two more
SEED, LEARNING_RATE = 0, 1e-4
PIXEL_DEVIATION = 60.0  # of mean-subtracted photographs, on the 0-255 scale


@dataclass(frozen=True)
class StepSettings:
    """The work of a contender.

    batch: images of a replica. steps: timed ones. threads: of each process. dtype: of the multiplications.
    compile_norm, cuda_graph: of our net. width_divisor: of the net's widths. ns_per_byte, blocking: of the pair's link
    (DelayedLink). peak_tflops: of the device, 0: that of its data sheet, if known.
    """

    batch: int
    steps: int
    threads: int
    device: str = "cpu"
    dtype: str = "float32"
    channels_last: bool = False
    compile_norm: bool = False
    cuda_graph: bool = False
    width_divisor: int = 1
    ns_per_byte: float = 0.0
    blocking: bool = False
    peak_tflops: float = 0.0

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the multiplications; weights are float32 with either."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    @property
    def memory_format(self) -> torch.memory_format:
        """How maps lie in memory."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


class InMemory:
    """A step.BatchSource that always returns the same batch of noise."""

    def __init__(self, settings: StepSettings, device: torch.device, replica: int = 0) -> None:
        """Draw one replica's batch."""
        generator = torch.Generator().manual_seed(SEED)
        images = PIXEL_DEVIATION * torch.randn(settings.batch, 3, plain_nets.SIDE, plain_nets.SIDE, generator=generator)
        labels = torch.randint(plain_nets.CLASSES, (settings.batch,), generator=generator)
        first = replica * settings.batch
        end = first + settings.batch
        self.batch = Batch(
            BatchSpec(True, 0, 0, np.arange(first, end), first),
            images.to(device, memory_format=settings.memory_format),
            labels.to(device),
            torch.arange(first, end, device=device),
        )

    def take(self) -> Batch:
        """Return the batch."""
        return self.batch

    def send_ahead(self) -> None:
        """Send nothing: the other tower has its own copy."""


def prepare_process(settings: StepSettings) -> None:
    """Set up this process as for training: threads, memory, benchmarked convolutions; the same for all contenders."""
    resources.keep_freed_memory()
    environment.prepare_cuda()
    torch.set_num_threads(settings.threads)
    set_precision(deterministic=False, tf32=False)
    if settings.device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # another contender may have run in this process


def measure_plain(net: str = "plain", **values: object) -> dict[str, float]:
    """Return the figures of a net trained as in torch's tutorials; net: "plain" or "torchvision"."""
    settings = StepSettings(**values)  # type: ignore[arg-type]
    prepare_process(settings)
    device = torch.device(settings.device)
    is_torchvision = net == "torchvision"
    model = plain_nets.torchvision_alexnet() if is_torchvision else plain_nets.plain(settings.width_divisor)
    step, losses = plain_step(model, settings, device)
    seconds = timed(step, settings.steps, device)
    check_losses([float(loss) for loss in losses])
    return _figures(seconds, settings.batch, settings, device)


def plain_step(
    model: nn.Module, settings: StepSettings, device: torch.device
) -> tuple[Callable[[int], None], list[Tensor]]:
    """Return a function that trains a torch net for one step, and the list to which it appends the losses."""
    train = plain_training(model, settings, device)
    batch, losses = InMemory(settings, device).batch, list[Tensor]()

    def step(_number: int) -> None:
        losses.append(train(batch.images, batch.labels))

    return step, losses


def plain_training(
    model: nn.Module, settings: StepSettings, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that trains a torch net for one step on images and labels, and returns the loss."""
    model = model.train().to(device).to(memory_format=settings.memory_format)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4)

    def train(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.compute_dtype == torch.bfloat16):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        return loss.detach()

    return train


def measure_fused(**values: object) -> dict[str, float]:
    """Return the figures of both our towers in this process."""
    settings = StepSettings(**values)  # type: ignore[arg-type]
    prepare_process(settings)
    device = torch.device(settings.device)
    timeline = Timeline(device)
    model = AlexNet(plain_nets.geometry(settings.width_divisor), SEED, compile_norm=settings.compile_norm)
    seconds, _ = _train(model, Groups(), InMemory(settings, device), settings, settings.batch, timeline)
    return _figures(seconds, settings.batch, settings, device)


def measure_rank(**values: object) -> dict[str, float]:
    """Return the figures of all pairs, of which this process is one rank; the same on every rank.

    link_wait_ms: the ranks' mean wait at joins in a step, median over the steps. In a pair the fast tower waits for
    the slow one, so the wait of one tower alone would measure the scheduler as much as the link. injected_ms: the
    delay of all bytes that a rank receives in a step.
    """
    settings = StepSettings(**values)  # type: ignore[arg-type]
    prepare_process(settings)
    with paired_ranks(settings.device) as (topology, groups):
        assert groups.pair is not None
        device = topology.device
        timeline, peer = Timeline(device), topology.rank ^ 1
        link = P2PLink(groups.pair, peer, timeline, settings.memory_format)
        if settings.ns_per_byte or settings.blocking:
            link = DelayedLink(groups.pair, peer, timeline, settings.ns_per_byte, settings.blocking)
        net = plain_nets.geometry(settings.width_divisor)
        model = LinkedTower(Tower(topology.towers[0], net, SEED, compile_norm=settings.compile_norm), link)
        source, images = InMemory(settings, device, topology.replica), settings.batch * topology.replicas
        seconds, reports = _train(model, groups, source, settings, images, timeline)
        measured = gather(groups, [seconds, [report.times.phase_s[LINK_WAIT] for report in reports]])
    # By step, the mean over the ranks.
    waits_s = [mean(waits) for waits in zip(*(waits for _, waits in measured), strict=True)]
    received_bytes = median(report.received_bytes for report in reports)
    return {
        **_figures(max(seconds for seconds, _ in measured), images, settings, device),
        "link_wait_ms": 1000 * median(waits_s),
        "received_megabytes": received_bytes / 1e6,
        "injected_ms": received_bytes * settings.ns_per_byte / 1e6,
    }


def _train(
    model: AlexNet | LinkedTower,
    groups: Groups,
    source: InMemory,
    settings: StepSettings,
    global_batch: int,
    timeline: Timeline,
) -> tuple[float, Sequence[StepReport]]:
    """Train as a run does; return the seconds of the timed steps, and this rank's report of each of them."""
    device = source.batch.images.device
    model = model.to(device).to(memory_format=settings.memory_format)  # type: ignore[call-overload]
    reducer = Reducer(model, groups.dp, timeline)
    engine = new_engine(
        model, reducer, Rule(), SEED, global_batch, 1, settings.compute_dtype, timeline,
        is_compiled=settings.compile_norm,
    )  # fmt: skip
    pending, rates = [], Rates(LEARNING_RATE, LEARNING_RATE)
    launch = GraphedStep() if settings.cuda_graph else train_step
    seconds = timed(lambda number: pending.append(launch(engine, source, number, rates)), settings.steps, device)
    reports = [step.read() for step in pending]
    check_losses([report.loss for report in reports])
    return seconds, reports[-settings.steps :]


def timed(step: Callable[[int], None], steps: int, device: torch.device, warm_up: int | None = None) -> float:
    """Return the seconds of `steps` steps after uncounted ones; step: called with the number of the step.

    warm_up: how many are not counted; None: as many as on a batch in memory.
    """
    if warm_up is None:
        warm_up = WARM_UP_CUDA if device.type == "cuda" else WARM_UP
    for number in range(warm_up):
        step(number)
    _synchronize(device)
    began_s = time.perf_counter()
    for number in range(warm_up, warm_up + steps):
        step(number)
    _synchronize(device)
    return time.perf_counter() - began_s


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_losses(losses: Sequence[float]) -> None:
    """Raise RunError if a loss is not finite: arithmetic on NaN has a different speed."""
    if not all(math.isfinite(loss) for loss in losses):
        raise RunError(
            f"losses {losses}; expected finite ones: these steps are not training, so their time means nothing"
        )


def _figures(seconds: float, images: int, settings: StepSettings, device: torch.device) -> dict[str, float]:
    """Return the figures of `settings.steps` steps; images: of each step."""
    images_per_second = images * settings.steps / seconds
    figures = {"images_per_second": images_per_second, "step_ms": 1000 * seconds / settings.steps}
    if device.type == "cuda":
        figures["peak_memory_gigabytes"] = torch.cuda.max_memory_allocated(device) / 1e9
    if peak := 1e12 * settings.peak_tflops or peak_flops(device, settings.dtype, tf32=False):
        flops = training_flops(plain_nets.geometry(settings.width_divisor))
        figures["mfu"] = images_per_second * flops / peak
    return figures
