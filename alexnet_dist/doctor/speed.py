"""How fast this run's loader, steps, link and all-reduce are here, and which of them the others wait for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

import torch

from alexnet_dist.data.loader import BatchRequest, Loader
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.data_parallel import all_reduce
from alexnet_dist.distributed.groups import Groups
from alexnet_dist.distributed.link import PairLink
from alexnet_dist.distributed.tower_parallel import LinkedTower
from alexnet_dist.doctor.findings import Finding
from alexnet_dist.monitoring.timeline import ALLREDUCE_WAIT, DATA_WAIT, LINK_WAIT
from alexnet_dist.training import graph
from alexnet_dist.training.build import build_engine, check_graph, compiles, schedule_of
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.feed import Feed, rows_of_rank
from alexnet_dist.training.graph import launcher
from alexnet_dist.training.schedule import Progress, rates_at
from alexnet_dist.training.step import Engine, StepReport

LOADING_S, TRAINING_S = 5.0, 12.0
LEAST_STEPS, MOST_STEPS = 3, 200
WARM_UP = 1  # steps and messages that are not counted
MESSAGES, LINK_BYTES, REDUCED_BYTES = 10, 2**20, 2**24
NAMES = {DATA_WAIT: "loader", LINK_WAIT: "link between the towers", ALLREDUCE_WAIT: "all-reduce between replicas"}
WAITING = 0.15  # of a step, above which it is said who is waited for
ADVICE = {
    DATA_WAIT: "raise data.workers (a core each), use a local disk for the shards, or pack smaller images",
    LINK_WAIT: "pair devices that are connected by NVLink or one PCIe switch; on CPUs start fewer ranks",
    ALLREDUCE_WAIT: "use a faster network between nodes, or a larger data.global_batch",
}


def loader_rate(run: RunContext, loader: Loader) -> float:
    """Return how many images of a replica this rank's loader delivers in a second, with nothing else to do."""
    topology = run.topology
    specs = run.plan.batches(topology.replica, topology.replicas, 0, 0)
    requests = []
    for spec in specs:
        if spec.train:
            first, end = rows_of_rank(spec, topology.towers)
            requests.append(BatchRequest("train", spec.epoch, spec.ids[first:end], run.config.data.random_crop))
        if len(requests) == 4 * MOST_STEPS:
            break
    batches, images, began_s = loader.run(requests), 0, None
    for batch in batches:
        now_s = time.monotonic()
        if began_s is None:
            began_s = now_s  # the first one includes the start of the processes
            continue
        images += len(batch.request.ids)
        if now_s - began_s > LOADING_S:
            break
    if began_s is None or not images:
        return 0.0
    # A rank of a pair decodes half of the replica's images.
    return images * 2 / len(topology.towers) / (time.monotonic() - began_s)


TOO_SHORT = Finding("speed", "warn", "not measured: the run, or its epoch, has a single step")


@dataclass(frozen=True)
class Speed:
    """What one rank has measured, in seconds and images a second.

    loader_rate: of the loader alone, for a replica; 0 if it was not measured. step_s: of a step.
    shares: of a step, by phase that waits.
    message_s: by size in bytes, between the towers; empty without a pair. reduce_s: of REDUCED_BYTES, else 0.
    """

    loader_rate: float
    step_s: float
    shares: Mapping[str, float]
    message_s: Mapping[str, float]
    reduce_s: float = 0.0


def examine_speed(
    run: RunContext, groups: Groups, control: Control, loaded_per_s: float, loader: Loader
) -> list[Finding]:
    """Train a few steps, whose weights are dropped; return what rank 0 makes of all ranks' figures.

    loaded_per_s: images a second of the loader alone.
    """
    engine, device = build_engine(run, groups), run.topology.device
    if device.type == "cuda":
        loader.pin()
    message_s: dict[str, float] = {}
    if isinstance(engine.model, LinkedTower):
        link = engine.model.link
        message_s = {str(size): _time(partial(_exchange, link, size, device), device) for size in (4, LINK_BYTES)}
    reduce_s = _time(partial(_reduce, groups, device), device) if groups.dp is not None else 0.0
    times = [report.times for report in train_briefly(run, engine, control, loader)]
    if not times:
        return [TOO_SHORT]
    shares = {phase: median(each.phase_s[phase] / each.step_s for each in times) for phase in NAMES}
    own = Speed(loaded_per_s, median(each.step_s for each in times), shares, message_s, reduce_s)
    speeds = [Speed(**json.loads(text)) for text in control.gather(json.dumps(asdict(own)))]
    if not run.topology.is_rank0:
        return []
    images = run.plan.global_batch // run.topology.replicas
    return [*exchange_findings(speeds, run.topology.replicas), speed_finding(speeds, images)]


def check_engine(run: RunContext) -> None:
    """Raise the UserError with which the net cannot be built on this machine alone."""
    check_graph(run)
    compiles(run)


def train_briefly(run: RunContext, engine: Engine, control: Control, loader: Loader) -> list[StepReport]:
    """Return the reports of the counted steps, as many on every rank."""
    topology, plan = run.topology, run.plan
    link = engine.model.link if isinstance(engine.model, LinkedTower) else None
    batches = plan.batches(topology.replica, topology.replicas, 0, 0)
    feed = Feed(run, batches, loader, link, engine.timeline, engine.is_compiled)
    is_graph = run.config.train.cuda_graph
    launch, warm_up = launcher(is_graph), graph.WARM_UP + 1 if is_graph else WARM_UP
    reports: list[StepReport] = []
    began_s = time.monotonic()
    for number in range(min(MOST_STEPS, plan.steps, plan.steps_per_epoch)):
        rates = rates_at(schedule_of(run.config), Progress(), number, plan.steps_per_epoch)
        reports.append(launch(engine, feed, number, rates).read())
        late = number + 1 >= LEAST_STEPS and time.monotonic() - began_s > TRAINING_S
        if control.sums([float(late)])[0]:
            break
    return reports[warm_up:]


def exchange_findings(speeds: Sequence[Speed], replicas: int) -> list[Finding]:
    """Report the slowest rank's exchanges between towers and sums over replicas; speeds: by rank."""
    findings = []
    if speeds[0].message_s:
        rank = max(range(len(speeds)), key=lambda rank: speeds[rank].message_s[str(LINK_BYTES)])
        short_s, long_s = (speeds[rank].message_s[str(size)] for size in (4, LINK_BYTES))
        found = f"{1e6 * short_s:,.0f} us for 4 bytes, {LINK_BYTES / long_s / 1e9:.2f} GB/s a direction"
        findings.append(Finding("link", "ok", f"between the towers of a replica: {found} (rank {rank}, the slowest)"))
    if speeds[0].reduce_s:
        rank = max(range(len(speeds)), key=lambda rank: speeds[rank].reduce_s)
        seconds = speeds[rank].reduce_s
        gigabytes_per_s = 2 * (replicas - 1) / replicas * REDUCED_BYTES / seconds / 1e9
        found = f"over {replicas} replicas: {1000 * seconds:,.1f} ms for 16 MB, {gigabytes_per_s:.2f} GB/s"
        findings.append(Finding("all-reduce", "ok", f"{found} (rank {rank}, the slowest)"))
    return findings


def speed_finding(speeds: Sequence[Speed], images: int) -> Finding:
    """Judge which part the others wait for; speeds: by rank. images: of a replica's step."""
    step_s = max(speed.step_s for speed in speeds)
    rank = min(range(len(speeds)), key=lambda rank: speeds[rank].loader_rate)
    loaded_per_s = speeds[rank].loader_rate
    found = f"a replica trains {images / step_s:,.0f} images/s ({1000 * step_s:,.0f} ms a step of {images})"
    if loaded_per_s:
        found += f"; the slowest loader alone delivers {loaded_per_s:,.0f} (rank {rank})"
    # A rank that waits for its loader makes the others wait for it at the link.
    shares = {phase: max(speed.shares[phase] for speed in speeds) for phase in NAMES}
    slowest = max(shares, key=lambda phase: shares[phase])
    if 0 < loaded_per_s < images / step_s or shares[DATA_WAIT] > WAITING:
        slowest = DATA_WAIT
    elif shares[slowest] <= WAITING:
        return Finding("speed", "ok", f"{found}; computing is the bottleneck")
    found += f"; ranks wait for the {NAMES[slowest]} in up to {shares[slowest]:.0%} of a step: the bottleneck"
    return Finding("speed", "warn", found, ADVICE[slowest])


def _exchange(link: PairLink, size_bytes: int, device: torch.device) -> None:
    link.wait(link.start(torch.zeros(size_bytes // 4, device=device), (size_bytes // 4,), "doctor"))


def _reduce(groups: Groups, device: torch.device) -> None:
    assert groups.dp is not None
    all_reduce(torch.zeros(REDUCED_BYTES // 4, device=device), groups.dp).wait()


def _time(work: Callable[[], None], device: torch.device) -> float:
    """Return the median seconds of a piece of work."""
    times_s = []
    for _ in range(WARM_UP + MESSAGES):
        began_s = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times_s.append(time.perf_counter() - began_s)
    return median(times_s[WARM_UP:])
