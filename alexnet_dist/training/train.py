"""The story of a training run, top to bottom: open everything, step by step train, evaluate and save, close.

Every rank runs all of it; the chief only writes what is written once.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from alexnet_dist import config, process
from alexnet_dist.config import Config
from alexnet_dist.data.loader import worker_death_as_error
from alexnet_dist.data.reader import Split
from alexnet_dist.distributed import preflight, topology
from alexnet_dist.distributed.control import Control, run_on_rank0
from alexnet_dist.distributed.topology import Topology
from alexnet_dist.distributed.tower_parallel import LinkedTower
from alexnet_dist.monitoring.metrics import Metrics, remove_targets, write_targets
from alexnet_dist.monitoring.profiler import check_room, profiled
from alexnet_dist.nn import geometry
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.training.build import build_engine, preparation, set_arithmetic, slowness
from alexnet_dist.training.feed import Feed
from alexnet_dist.training.inputs import alike, cache_room, open_loader, open_splits, programme_of
from alexnet_dist.training.loop import Loop
from alexnet_dist.training.resume import Start, changes, resume
from alexnet_dist.training.run_logger import RunLogger
from alexnet_dist.training.run_plan import RunPlan


def train(settings: Config, profile_steps: int = 0) -> None:
    """Train, or go on with, the run in `run.directory`; return when it is finished or was asked to stop.

    profile_steps: how many steps to write a profile of, after the first three of this start.

    Raises UserError for what the user can mend, before the first step where it can be seen there, and RunError for
    what ended the run otherwise.
    """
    process.keep_freed_memory()
    launched = process.launched()
    layout = settings.topology
    place = topology.place(layout.layout, settings.train.device, launched, layout.share_device)
    process.prepare_cuda()
    set_arithmetic(settings)
    splits = open_splits(settings)
    programme = programme_of(settings, splits, place)
    room = cache_room(settings, splits, programme, place, launched.local_world_size)
    directory, net = Path(settings.run.directory), config.geometry(settings)
    with topology.lost_rank_as_error(place), worker_death_as_error(), ExitStack() as opened:
        if place.is_rank0:
            opened.enter_context(run_directory.open_directory(directory))
        # Forked before threads, sockets, process groups and CUDA exist, which a fork would copy.
        loader = opened.enter_context(open_loader(settings, splits, programme, place, launched.local_world_size))
        stop = process.StopRequest(process.GROUP_SIGNALS)
        opened.callback(stop.disarm)
        opened.callback(topology.close_groups)
        own = preflight.mine(launched, place.layout, place.device.type, place.backend, alike(settings, splits))
        store = preflight.meet(own, place.world_size, layout.timeout_s)
        groups = topology.open_groups(place, layout.timeout_s, store)
        control = Control(groups.world)
        trainer = build_engine(settings, place, groups)
        if place.device.type == "cuda":
            loader.pin()
        position = programme.position(0, splits["train"].manifest.sha256)
        start = resume(directory, trainer, run_directory.geometry_state(net), position, control, place)
        if start.step >= programme.steps and not programme.owes_evaluation(start.step, start.evaluated_step):
            say(place, f"{directory} is finished: {start.step:,} steps; raise run.steps or run.epochs to go on")
            return
        check_room(profile_steps, programme.steps - start.step)
        notes = [] if room is None else [room]
        if start.step and place.is_rank0:
            notes += [f"changed since the last start: {one}" for one in changes(settings)]
        run_on_rank0(partial(begin, settings, splits["train"], start), control, place)
        link = trainer.model.link if isinstance(trainer.model, LinkedTower) else None
        tasks = programme.tasks(place.replica, place.replicas, start.step, start.evaluated_step)
        feed = Feed(tasks, loader, place.towers, link, preparation(settings, splits["train"], place), trainer.timeline)
        announce(settings, place, programme, net, start, notes)
        metrics = opened.enter_context(closing(open_metrics(settings, directory, place, control)))
        opened.callback(remove_targets, directory / run_directory.TARGETS)
        journal = opened.enter_context(
            RunLogger(
                directory, place, programme, net, metrics, settings.run.log_every, settings.run.record_samples,
                start.step, start.time_s,
            )
        )  # fmt: skip
        after_step = opened.enter_context(
            profiled(profile_steps, directory / run_directory.PROFILE, place.rank, place.device.type)
        )
        stop.arm()
        Loop(settings, place, programme, position, trainer, feed, control, journal, stop).go(start, after_step)


def begin(settings: Config, train: Split, start: Start) -> int:
    """Make the run's directory what it was at the start, and keep in it what this start brings; return 0."""
    directory = Path(settings.run.directory)
    run_directory.begin(directory, start.step, start.evaluated_step, config.to_yaml(settings), train.to_keep())
    return 0


def open_metrics(settings: Config, directory: Path, place: Topology, control: Control) -> Metrics:
    """Serve this rank's metrics and let the chief write where all ranks' are."""
    metrics = Metrics(
        run=directory.name,
        rank=place.rank,
        replica=place.replica,
        tower="+".join(map(str, place.towers)),
        world_size=place.world_size,
    )
    endpoint = ""
    if settings.metrics.port is not None:
        base = settings.metrics.port
        port = metrics.serve(settings.metrics.address, base and base + place.local_rank)
        host = socket.gethostname() if settings.metrics.address in ("0.0.0.0", "::") else settings.metrics.address
        endpoint = f"{host}:{port}" if port else ""
    endpoints = [one for one in control.gather(endpoint) if one]
    if place.is_rank0 and endpoints:
        write_targets(directory / run_directory.TARGETS, endpoints)
        print(f"metrics: {', '.join(f'http://{one}/metrics' for one in endpoints)}", flush=True)
    return metrics


def announce(
    settings: Config, place: Topology, programme: RunPlan, net: geometry.Geometry, start: Start, notes: list[str]
) -> None:
    """Say what is about to be trained, where, from which step, and what else is worth a line."""
    for line in notes:
        say(place, line)
    wiring = "2 linked towers" if place.layout == "paired" else "both towers in one process"
    say(
        place,
        f"training {geometry.parameter_count(net):,} parameters on {place.replicas} replica(s) x {wiring}"
        f" ({place.world_size} rank(s), {place.device.type}); {sum(programme.counts):,} images,"
        f" {programme.steps_per_epoch:,} steps an epoch, {programme.steps:,} in all; run {settings.run.directory}",
    )
    if (slow := slowness(settings, place)) is not None:
        say(place, slow)
    if start.step:
        say(place, f"resuming from step {start.step:,} (epoch {start.step / programme.steps_per_epoch:.2f})")


def say(place: Topology, text: str) -> None:
    """Print a line of the chief's."""
    if place.is_rank0:
        print(text, flush=True)
