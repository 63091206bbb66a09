"""Training steps of every contender of ``step`` and ``scaling``, timed alike: each has its batch in memory already.

A step is all of it: forward with dropout, loss, backward, the sum over replicas where there are any, and the update.
The first steps are not counted: they allocate, and choose their convolutions.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet_dist import process
from alexnet_dist.benchmark.contenders import plain_nets as nets
from alexnet_dist.distributed import topology
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.distributed.link import DelayedLink, P2PLink
from alexnet_dist.distributed.tower_parallel import LinkedTower
from alexnet_dist.errors import RunError
from alexnet_dist.monitoring.timeline import LINK_WAIT, Timeline
from alexnet_dist.nn.geometry import training_flops
from alexnet_dist.nn.model import AlexNet, Tower
from alexnet_dist.training.feed import Batch
from alexnet_dist.training.optim import Rule
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.step import Report, engine, train_step

WARM_UP = 2  # steps
SEED, RATE = 0, 1e-4
PIXEL_DEVIATION = 60.0  # of mean-subtracted photographs, on the 0-255 scale
GROUPS_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Job:
    """What a contender is to do.

    batch: images a replica. steps: timed ones. threads: of each process. dtype: of the multiplications. compile_norm:
    of our net. narrower: what the net's widths are divided by. ns_per_byte, blocking: of the pair's link
    (link.DelayedLink). peak_tflops: of the device, 0 where nobody has said it.
    """

    batch: int
    steps: int
    threads: int
    device: str = "cpu"
    dtype: str = "float32"
    channels_last: bool = False
    compile_norm: bool = False
    narrower: int = 1
    ns_per_byte: float = 0.0
    blocking: bool = False
    peak_tflops: float = 0.0

    @property
    def compute(self) -> torch.dtype:
        """The dtype of the multiplications; weights are float32 with either."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    @property
    def memory_format(self) -> torch.memory_format:
        """How maps lie in memory."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


class InMemory:
    """A source (step.Source) that always brings the same batch of noise."""

    def __init__(self, job: Job, device: torch.device, replica: int = 0) -> None:
        """Draw one replica's batch."""
        generator = torch.Generator().manual_seed(SEED)
        images = PIXEL_DEVIATION * torch.randn(job.batch, 3, nets.SIDE, nets.SIDE, generator=generator)
        labels = torch.randint(nets.CLASSES, (job.batch,), generator=generator)
        first = replica * job.batch
        self.batch = Batch(
            BatchSpec(True, 0, 0, np.arange(first, first + job.batch), first),
            images.to(device, memory_format=job.memory_format),
            labels.to(device),
            torch.arange(first, first + job.batch, device=device),
        )

    def take(self) -> Batch:
        """Return the batch."""
        return self.batch

    def send_ahead(self) -> None:
        """Send nothing: the other tower has its copy."""


def begin(job: Job) -> None:
    """Set up this process, whichever contender it runs, as training does: threads, memory, convolutions by trial."""
    process.keep_freed_memory()
    process.prepare_cuda()
    torch.set_num_threads(job.threads)
    torch.backends.cudnn.benchmark = True


def measure_plain(net: str = "plain", **settings: object) -> dict[str, float]:
    """Return the figures of a net of `nets` trained as torch's tutorials do; net: "plain" or "torchvision"."""
    job = Job(**settings)  # type: ignore[arg-type]
    begin(job)
    device = torch.device(job.device)
    model = nets.torchvision_alexnet() if net == "torchvision" else nets.plain(job.narrower)
    step, losses = plain_step(model, job, device)
    seconds = timed(step, job.steps, device)
    _check([float(loss) for loss in losses])
    return _figures(seconds, job.batch, job, device)


def plain_step(model: nn.Module, job: Job, device: torch.device) -> tuple[Callable[[int], None], list[Tensor]]:
    """Return a function that makes one step of a torch net, and where it leaves the losses."""
    model = model.train().to(device).to(memory_format=job.memory_format)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    batch, losses = InMemory(job, device).batch, list[Tensor]()

    def step(_number: int) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=job.compute == torch.bfloat16):
            logits = model(batch.images)
        loss = F.cross_entropy(logits.float(), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        losses.append(loss.detach())

    return step, losses


def measure_fused(**settings: object) -> dict[str, float]:
    """Return the figures of both our towers in this process."""
    job = Job(**settings)  # type: ignore[arg-type]
    begin(job)
    device = torch.device(job.device)
    timeline = Timeline(device)
    model = AlexNet(nets.geometry(job.narrower), SEED, compile_norm=job.compile_norm)
    seconds, _ = _trained(model, topology.Groups(), InMemory(job, device), job, job.batch, timeline)
    return _figures(seconds, job.batch, job, device)


def measure_rank(**settings: object) -> dict[str, float]:
    """Return the figures of all pairs of which this process is one rank, the same on every rank.

    link_wait_ms: the mean of all ranks' waits at joins in a step, of the steps the median. Within a pair the fast
    tower waits for the slow one, so one tower's wait alone would tell as much of the scheduler as of the link.
    injected_ms: the delay of all that a rank receives in a step.
    """
    job = Job(**settings)  # type: ignore[arg-type]
    begin(job)
    place = topology.place("paired", job.device, process.launch_info())
    groups = topology.open_groups(place, GROUPS_TIMEOUT_S)
    try:
        assert groups.pair is not None
        timeline, peer = Timeline(place.device), place.rank ^ 1
        link = P2PLink(groups.pair, peer, timeline, job.memory_format)
        if job.ns_per_byte or job.blocking:
            link = DelayedLink(groups.pair, peer, timeline, job.ns_per_byte, job.blocking)
        tower = Tower(place.towers[0], nets.geometry(job.narrower), SEED, compile_norm=job.compile_norm)
        source, images = InMemory(job, place.device, place.replica), job.batch * place.replicas
        seconds, reports = _trained(LinkedTower(tower, link), groups, source, job, images, timeline)
        own = [seconds, [report.times.phase_s[LINK_WAIT] for report in reports]]
        told = [json.loads(one) for one in Control(groups.world).gather(json.dumps(own))]
    finally:
        topology.close_groups()
    waits_s = [mean(waits) for waits in zip(*(waits for _, waits in told), strict=True)]
    received_bytes = median(report.received_bytes for report in reports)
    return {
        **_figures(max(seconds for seconds, _ in told), images, job, place.device),
        "link_wait_ms": 1000 * median(waits_s),
        "received_megabytes": received_bytes / 1e6,
        "injected_ms": received_bytes * job.ns_per_byte / 1e6,
    }


def _trained(
    model: AlexNet | LinkedTower,
    groups: topology.Groups,
    source: InMemory,
    job: Job,
    global_batch: int,
    timeline: Timeline,
) -> tuple[float, Sequence[Report]]:
    """Train as a run does; return the seconds of the timed steps, and what each of them was on this rank."""
    device = source.batch.images.device
    model = model.to(device).to(memory_format=job.memory_format)  # type: ignore[call-overload]
    reducer = Reducer(model, groups.dp, timeline)
    trainer = engine(model, reducer, Rule(), SEED, global_batch, 1, job.compute, timeline)
    started = []
    seconds = timed(lambda number: started.append(train_step(trainer, source, number, RATE)), job.steps, device)
    reports = [one.read() for one in started]
    _check([report.loss for report in reports])
    return seconds, reports[WARM_UP:]


def timed(step: Callable[[int], None], steps: int, device: torch.device) -> float:
    """Return the seconds of so many steps, after some that are not counted; step: takes the number of the step."""
    for number in range(WARM_UP):
        step(number)
    _settle(device)
    began_s = time.perf_counter()
    for number in range(WARM_UP, WARM_UP + steps):
        step(number)
    _settle(device)
    return time.perf_counter() - began_s


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _check(losses: Sequence[float]) -> None:
    """Refuse to time steps that compute nothing: arithmetic on NaN has a speed of its own."""
    if not all(math.isfinite(loss) for loss in losses):
        raise RunError(
            f"losses {losses}; expected finite ones: these steps are not training, and their time says little"
        )


def _figures(seconds: float, images: int, job: Job, device: torch.device) -> dict[str, float]:
    """Return the figures of `job.steps` steps of so many images each."""
    images_per_second = images * job.steps / seconds
    found = {"images_per_second": images_per_second, "step_ms": 1000 * seconds / job.steps}
    if device.type == "cuda":
        found["peak_memory_gigabytes"] = torch.cuda.max_memory_allocated(device) / 1e9
    if job.peak_tflops:
        found["mfu"] = images_per_second * training_flops(nets.geometry(job.narrower)) / (1e12 * job.peak_tflops)
    return found
