"""The checks of a rank in their order, and the report of all ranks on rank 0."""

from __future__ import annotations

from contextlib import ExitStack

from alexnet_dist import process
from alexnet_dist.config import Config
from alexnet_dist.data.loader import Loader, worker_death_as_error
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.groups import Groups, close_groups
from alexnet_dist.doctor import findings as reports
from alexnet_dist.doctor.findings import Finding
from alexnet_dist.doctor.machine import examine_machine
from alexnet_dist.doctor.peers import connect
from alexnet_dist.doctor.shards import examine_shards
from alexnet_dist.doctor.speed import examine_speed, loader_rate
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.nn.precision import set_precision
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.inputs import open_loader, open_run, shard_warnings

NOT_MEASURED = Finding("speed", "warn", "not measured: the ranks do not work together", "mend what has failed first")


def examine(config: Config) -> list[Finding] | None:
    """Return the findings of all ranks on rank 0, None on ranks whose findings rank 0 reports."""
    process.keep_freed_memory()
    process.prepare_cuda()
    set_precision(config.train.deterministic, config.train.tf32)
    launched = process.launch_info()
    try:
        run = open_run(config, launched)
    except UserError as error:
        found, _, advice = str(error).rpartition("; ")
        failed = Finding("run", "fail", found or str(error), advice if found else "")
        return None if launched.rank else [failed]
    own = [*examine_machine(run), *_data(run)]
    return _with_others(run, own)


def _data(run: RunContext) -> list[Finding]:
    warnings = [Finding("data", "warn", text.removeprefix("warning: ")) for text in shard_warnings(run)]
    shares = run.launched.local_world_size
    return [*warnings, examine_shards(run.splits, run.launched.local_rank, shares)]


def _with_others(run: RunContext, own: list[Finding]) -> list[Finding] | None:
    """Add what the ranks find together: whether they match, and how fast they are."""
    with ExitStack() as stack:
        loaders: list[Loader] = []
        try:
            # Forked before there are threads.
            loaders += [stack.enter_context(open_loader(run)) for _ in range(2)]
        except (UserError, RunError) as error:
            own.append(Finding("loader", "fail", str(error)))
        groups, found = connect(run)
        own += found
        if groups is None:
            # No rank has the others' findings: the first of each node prints its own.
            return [*own, NOT_MEASURED] if run.launched.local_rank == 0 else None
        stack.callback(close_groups)
        control = Control(groups.world)
        own += measured(run, groups, control, loaders)
        texts = control.gather(reports.dump(own))
        hosts, nodes = control.gather(process.host_name()), control.gather(str(run.launched.node_rank))
    return reports.merge([reports.load(text) for text in texts], hosts, nodes) if run.topology.is_rank0 else None


def measured(run: RunContext, groups: Groups, control: Control, loaders: list[Loader]) -> list[Finding]:
    """Return what the speed of all ranks shows, or that it is not measured, the same on every rank."""
    if control.sums([float(not loaders)])[0]:
        return [NOT_MEASURED]
    for_rate, for_steps = loaders
    with worker_death_as_error():
        try:
            rate = loader_rate(run, for_rate)
            control.sums([0.0])  # until then other ranks may still load
            return examine_speed(run, groups, control, rate, for_steps)
        except UserError as error:  # such as too many damaged samples; the other ranks end with this one
            return [Finding("speed", "fail", str(error))]
