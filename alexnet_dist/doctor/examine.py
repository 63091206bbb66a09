"""The checks of a rank in their order, and the report of all ranks on rank 0."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from alexnet_dist.config import Config
from alexnet_dist.data.loader import Loader, worker_death_as_error
from alexnet_dist.data.shards import LocalFiles
from alexnet_dist.distributed.control import Control
from alexnet_dist.distributed.groups import Groups
from alexnet_dist.distributed.lost_rank import LostRankError
from alexnet_dist.doctor import findings as reports
from alexnet_dist.doctor.findings import Finding
from alexnet_dist.doctor.machine import examine_machine
from alexnet_dist.doctor.peers import connect
from alexnet_dist.doctor.shards import examine_shards
from alexnet_dist.doctor.speed import check_engine, examine_speed, loader_rate
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.monitoring.access import open_access
from alexnet_dist.nn.precision import set_precision
from alexnet_dist.system import environment, resources
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.inputs import check_cache_room, metrics_files, open_loader, open_run, shard_warnings

NOT_MEASURED = Finding("speed", "warn", "not measured: something else has failed", "fix that first")


def examine(config: Config) -> list[Finding] | None:
    """Return the findings of all ranks on rank 0; on others None, or their own if rank 0 does not learn them."""
    resources.keep_freed_memory()
    environment.prepare_cuda()
    set_precision(config.train.deterministic, config.train.tf32)
    launched = environment.launch_info()
    try:
        run = open_run(config, launched)
        check_cache_room(run)
        open_access(*metrics_files(config))
        run.directory.absolute()
    except UserError as error:
        return None if launched.local_rank else [reports.failed("run", error)]
    own: list[Finding] = []
    where = f"{resources.host_name()}, rank {launched.rank}"
    try:
        with ExitStack() as stack, worker_death_as_error():
            return _examine_run(run, own, stack)
    except LostRankError as error:
        return None if launched.local_rank else [*own, Finding("ranks", "fail", f"lost one: {error}", where=where)]
    except (UserError, RunError) as error:
        return [*own, replace(reports.failed("speed", error), where=where)]


def _examine_run(run: RunContext, own: list[Finding], stack: ExitStack) -> list[Finding] | None:
    """Make all checks, adding to this rank's findings; return those of all ranks on rank 0."""
    loaders: list[Loader] = []
    try:
        # Forked before there are process groups and CUDA. Two of them would share one cache of remote shards.
        wanted = 2 if isinstance(run.splits["train"].root, LocalFiles) else 1
        loaders += [stack.enter_context(open_loader(run)) for _ in range(wanted)]
    except (UserError, RunError) as error:
        own.append(reports.failed("loader", error))
    own += examine_machine(run)
    own += [Finding("data", "warn", text.removeprefix("warning: ")) for text in shard_warnings(run)]
    groups, found = connect(run)
    own += found
    # Now, as the others would wait for this rank before they have met.
    own.append(examine_shards(run.splits, run.launched.local_rank, run.launched.local_world_size))
    if groups is None:
        # No rank has the others' findings: the first of each node prints its own.
        return None if run.launched.local_rank else [*own, NOT_MEASURED]
    control = Control(groups.world)
    stack.push(control.close_groups)
    own += _measured(run, groups, control, loaders)
    texts = control.gather(reports.dump(own))
    hosts, nodes = control.gather(resources.host_name()), control.gather(str(run.launched.node_rank))
    return reports.merge([reports.load(text) for text in texts], hosts, nodes) if run.topology.is_rank0 else None


def _measured(run: RunContext, groups: Groups, control: Control, loaders: list[Loader]) -> list[Finding]:
    """Return what the speed of all ranks shows, or that it is not measured, the same on every rank.

    Raises UserError or RunError for what ends this rank while the others measure.
    """
    failed = [] if loaders else [NOT_MEASURED]
    control.sums([0.0])  # all ranks load at the same time
    images_per_s = 0.0
    try:
        if len(loaders) == 2:
            images_per_s = loader_rate(run, loaders[0])
        check_engine(run)
    except (UserError, RunError) as error:
        failed.append(reports.failed("loader", error))
    if control.sums([float(bool(failed))])[0]:
        return failed or [NOT_MEASURED]
    return examine_speed(run, groups, control, images_per_s, loaders[-1])
