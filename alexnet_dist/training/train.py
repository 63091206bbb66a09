"""The story of a training run, top to bottom: open the inputs, connect the ranks, resume, train step by step, close.

Every rank runs all of it; only rank 0 writes the files of the run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace

from alexnet_dist import config as configs
from alexnet_dist.config import Config
from alexnet_dist.data.loader import Loader, worker_death_as_error
from alexnet_dist.data.reader import BAD_KINDS
from alexnet_dist.distributed import network, preflight
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.end_reports import EndReports
from alexnet_dist.distributed.groups import Groups, open_groups
from alexnet_dist.distributed.tower_parallel import LinkedTower
from alexnet_dist.errors import refuse_to_run
from alexnet_dist.monitoring.access import ANYBODY, Access, open_access
from alexnet_dist.monitoring.device import peak_flops
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.monitoring.profiler import check_room, profiled
from alexnet_dist.monitoring.targets import (
    Target,
    endpoint,
    is_loopback,
    reachable,
    remove_targets,
    unreachable_warning,
    warn,
    write_targets,
)
from alexnet_dist.nn import geometry
from alexnet_dist.nn.precision import set_precision
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.system import environment, resources
from alexnet_dist.system.signals import CLOSE_GRACE_S, GROUP_SIGNALS, SAVE_GRACE_S, StopRequest
from alexnet_dist.system.wording import counted
from alexnet_dist.training.build import build_engine, slow_dtype_warning, uncompiled_warning
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.ending import LastScrape, explained
from alexnet_dist.training.faults import Fault, FaultyFeed, FaultyTimeline, Injector
from alexnet_dist.training.feed import Feed
from alexnet_dist.training.graph import launcher
from alexnet_dist.training.initial import copy_initial_weights
from alexnet_dist.training.inputs import (
    check_cache_room,
    metrics_files,
    must_match,
    open_loader,
    open_run,
    shard_warnings,
)
from alexnet_dist.training.loop import Loop
from alexnet_dist.training.provenance import note_ranks, start_facts
from alexnet_dist.training.resume import Start, config_changes, resume, without_skipped
from alexnet_dist.training.run_logger import RunLogger
from alexnet_dist.training.saver import Saver
from alexnet_dist.training.step import Engine


def train(
    config: Config,
    profile_steps: int = 0,
    stop: StopRequest | None = None,
    faults: Sequence[Fault] = (),
    origins: Mapping[str, str] | None = None,
) -> bool:
    """Train or resume the run in `run.directory`; return whether this start has finished it, or was asked to stop.

    profile_steps: how many steps to profile, after the first three of this start. stop: what watches this process's
    signals; None: a signal before the first step ends the process at once. faults: of all ranks, for tests. origins:
    of the configuration's values, to be recorded.

    Raises UserError for what the user can fix, before the first step if it can be seen there, and RunError for anything
    else that ends the run.
    """
    resources.keep_freed_memory()
    environment.prepare_cuda()
    set_precision(config.train.deterministic, config.train.tf32)
    run = open_run(config, environment.launch_info())
    cache_note, access = check_cache_room(run), open_access(*metrics_files(config))
    reports = EndReports(run.topology)
    with explained(run, reports), worker_death_as_error(), ExitStack() as stack:
        if run.topology.is_rank0:
            stack.enter_context(run_directory.open_directory(run.directory))
        # Forked before metrics, process groups and CUDA exist, which a fork would copy. Only the thread that watches
        # signals may exist; while it waits it holds no lock.
        loader = stack.enter_context(open_loader(run))
        stop = StopRequest(GROUP_SIGNALS) if stop is None else stop
        stack.callback(stop.allow, CLOSE_GRACE_S)
        groups = connect(run, reports)
        control = Control(groups.world)
        stack.push(control.close_groups)
        if stopped_early(run, control, stop):
            return False
        run = without_skipped(run, control)
        own_faults = [fault for fault in faults if fault.rank == run.topology.rank]
        injector = Injector(own_faults, run.directory) if own_faults else None
        engine = build_engine(run, groups, injector)
        if run.topology.device.type == "cuda":
            loader.pin()
        start = resume(run, engine, control)
        if was_finished(run, start):
            return False
        if start.step == 0:
            copy_initial_weights(run, engine, control)
        check_room(profile_steps, run.plan.steps - start.step)
        announce(run, start, accept(run, start, control, origins or {}), cache_note)
        feed = open_feed(run, start, loader, engine)
        metrics = stack.enter_context(closing(open_metrics(run, control, access)))
        if run.topology.is_rank0:
            stack.callback(remove_targets, run.directory / run_directory.TARGETS)
        last_scrape = stack.enter_context(LastScrape(metrics, stop, control))
        logger = stack.enter_context(RunLogger(run, metrics, start))
        saver = stack.enter_context(closing(Saver(run, control, injector)))
        after_launch = stack.enter_context(
            profiled(profile_steps, run.directory / run_directory.PROFILE, run.topology.rank, run.topology.device.type)
        )
        if stopped_early(run, control, stop):
            return False
        stop.allow(SAVE_GRACE_S, reports.waits_in_vain)
        reports.begin(lambda: logger.finished_step)
        with reports.reporting(), worker_death_as_error():
            launch_step = launcher(config.train.cuda_graph)
            loop = Loop(run, engine, feed, control, logger, saver, lambda: bool(stop), launch_step)
            last_scrape.finished = loop.train(start, after_launch)
            note_ranks(run, metrics, control, logger.finished_step)
        stop.allow(SAVE_GRACE_S)  # what follows waits for other ranks only until they were scraped
    return last_scrape.finished


def stopped_early(run: RunContext, control: Control, stop: StopRequest) -> bool:
    """Return whether any rank was asked to stop before the first step, the same on every rank."""
    if not control.sums([float(bool(stop))])[0]:
        return False
    steps = checkpoint.finished_steps(run.directory / run_directory.CHECKPOINTS) if run.topology.is_rank0 else []
    if steps:
        run_directory.mark_preempted(run.directory, max(steps))
    run.log(
        "asked to stop before the first step: "
        + (f"the same command resumes from step {max(steps):,}" if steps else "there is nothing to save")
    )
    return True


def was_finished(run: RunContext, start: Start) -> bool:
    """Return whether an earlier start has finished the run; a stop of this one leaves no mark then."""
    if start.step < run.plan.steps or run.plan.evaluation_missing(start.step, start.evaluated_step):
        return False
    if run.topology.is_rank0:
        (run.directory / run_directory.PREEMPTED).unlink(missing_ok=True)
    run.log(f"{run.directory} is finished: {counted(start.step, 'step')}; raise run.steps or run.epochs to continue")
    return True


def connect(run: RunContext, reports: EndReports) -> Groups:
    """Compare this rank with all others, check the network between nodes, then build the process groups."""
    topology, timeout_s = run.topology, run.config.topology.timeout_s
    own = preflight.rank_info(run.launched, topology.layout, topology.device.type, topology.backend, must_match(run))
    room = preflight.check_ranks(own, topology.world_size, timeout_s)
    reports.open(room, own.node, run.launched.local_world_size, run.launched.agent_store)
    if room is not None:
        for node in network.use_network(room, run.launched, timeout_s):
            run.log(f"node: {node}")
    return open_groups(topology, timeout_s, room)


def accept(run: RunContext, start: Start, control: Control, origins: Mapping[str, str]) -> list[str]:
    """Restore the run's directory to what it was at the start, on rank 0; return what changed in the configuration."""
    facts = start_facts(run, start.step, control, origins)

    def begin() -> list[str]:
        changes = config_changes(run) if start.step else []
        inputs = run.splits["train"].to_keep()
        config_yaml = configs.to_yaml(run.config)
        for note in run_directory.begin(run.directory, start.step, start.evaluated_step, config_yaml, inputs):
            print(f"warning: {note}", file=sys.stderr, flush=True)
        run_directory.note_start(run.directory, facts)
        return changes

    return control.run_on_rank0(begin)


def announce(run: RunContext, start: Start, changes: list[str], cache_note: str | None) -> None:
    """Log what is about to be trained, where, and from which step."""
    if cache_note is not None:
        run.log(cache_note)
    for change in changes:
        run.log(f"changed since the last start: {change}")
    topology, plan = run.topology, run.plan
    fused = "both towers in one process" if run.net.towers == 2 else "1 tower"
    wiring = "2 linked towers" if topology.layout == "paired" else fused
    run.log(
        f"training {geometry.parameter_count(run.net):,} parameters on"
        f" {counted(topology.replicas, 'replica')} x {wiring}"
        f" ({counted(topology.world_size, 'rank')}, {topology.device.type}); {counted(sum(plan.counts), 'image')},"
        f" {counted(plan.steps_per_epoch, 'step')} an epoch, {plan.steps:,} in all; run {run.config.run.directory}"
    )
    for warning in (*shard_warnings(run), slow_dtype_warning(run), uncompiled_warning(run)):
        if warning is not None:
            run.log(warning)
    if start.step:
        run.log(f"resuming from step {start.step:,} (epoch {start.step / plan.steps_per_epoch:.2f})")


def open_feed(run: RunContext, start: Start, loader: Loader, engine: Engine) -> Feed:
    """Start the stream of this replica's batches from a start on."""
    topology = run.topology
    batches = run.plan.batches(topology.replica, topology.replicas, start.step, start.evaluated_step)
    link = engine.model.link if isinstance(engine.model, LinkedTower) else None
    kind = FaultyFeed if isinstance(engine.timeline, FaultyTimeline) else Feed
    return kind(run, batches, loader, link, engine.timeline, engine.is_compiled)


def open_metrics(run: RunContext, control: Control, access: Access = ANYBODY) -> Metrics:
    """Serve this rank's metrics and, on rank 0, write the addresses of all ranks' metrics; access: to whom."""
    topology, section = run.topology, run.config.metrics
    # Other nodes may have another directory.
    name, starts, preemptions = control.run_on_rank0(
        lambda: (run.directory.name, run_directory.starts(run.directory), run_directory.preemptions(run.directory))
    )
    metrics = Metrics(
        run=name,
        rank=topology.rank,
        replica=topology.replica,
        tower="+".join(map(str, topology.towers)),
        world_size=topology.world_size,
        bad_sample_reasons=BAD_KINDS,
        device=topology.device,
        peak_flops=peak_flops(topology.device, run.config.train.dtype, run.config.train.tf32),
    )
    metrics.set_restarts(max(0, starts - 1), preemptions)
    own = Target(run.launched.node_rank, resources.host_name(), "", scheme=access.scheme)
    if section.port is not None:
        address = section.address.removeprefix("[").removesuffix("]")  # an IPv6 address, typed as in a URL
        if port := metrics.serve(address, section.port and section.port + topology.local_rank, access):
            reached_at = network.own_address(run.launched) if run.launched.spans_nodes else ""
            own = replace(own, endpoint=endpoint(address, port, reached_at), is_local=is_loopback(address))
    targets = [Target(**json.loads(text)) for text in control.gather(json.dumps(asdict(own)))]
    found = reachable(targets)
    if topology.is_rank0 and found:
        write_targets(run.directory / run_directory.TARGETS, found)
        print(f"metrics: {', '.join(target.url for target in found)}", flush=True)
        if warning := unreachable_warning(targets, access.credentials is not None):
            warn(warning)
    return metrics


if __name__ == "__main__":
    sys.exit(refuse_to_run("alexnet_dist.training.train", "python -m alexnet_dist.train"))
