"""The checks of one machine: software, devices, cores, descriptors, memory, /dev/shm, disk, port, restarts."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from alexnet_dist.doctor.devices import devices
from alexnet_dist.doctor.findings import Finding
from alexnet_dist.errors import PermanentError
from alexnet_dist.monitoring.server import LAST_PORT
from alexnet_dist.nn import geometry
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS
from alexnet_dist.system import environment, resources
from alexnet_dist.system.environment import LaunchInfo
from alexnet_dist.system.wording import counted
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.inputs import worker_count

PACKAGES = ("alexnet_dist", "torch", "numpy", "safetensors", "simplejpeg", "prometheus-client")
OWN_FILES = 96  # in a rank: 32, the most that was measured with 2 ranks, and 64 clients of its metrics
FILES_PER_RANK, FILES_PER_WORKER = 4, 6
TENSORS_IN_MEMORY = 5  # of a net's size: weights, gradients, velocities, and the copies of a checkpoint
LOCKS = 32  # of a rank's loader processes


def examine_machine(run: RunContext) -> list[Finding]:
    """Return the findings of this rank's machine, in the order of a report; one rank a machine makes most of them."""
    config, launched = run.config, run.launched
    checkpoint_bytes, kept = 2 * 4 * geometry.parameter_count(run.net), config.run.keep + config.run.keep_best
    of_rank = [
        software(),
        devices(run.topology, launched.local_world_size),
        port(config.metrics.address, config.metrics.port, launched.local_rank),
    ]
    if launched.local_rank:
        return of_rank
    workers = worker_count(run)
    return [
        *of_rank,
        cores(resources.cores(), launched.local_world_size, workers, run.topology.device.type),
        open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0], launched.world_size, workers),
        memory(resources.available_memory_bytes(), needed_memory_bytes(run)),
        shared_memory(),
        *([disk(run.directory, checkpoint_bytes, kept)] if launched.rank == 0 else []),
        restarts(launched, environment.most_restarts(), environment.final_error_file() is not None),
    ]


def software() -> Finding:
    """Name the versions; that they are the same on all ranks is compared elsewhere."""
    names = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            names.append(f"{package} (not installed)")
    if torch.version.cuda:
        names.append(f"CUDA {torch.version.cuda}")
    return Finding("software", "ok", ", ".join(names))


def cores(count: int, local_ranks: int, workers: int, device: str) -> Finding:
    """Compare the cores with the processes that compute or decode."""
    busy = local_ranks * (workers + (device == "cpu"))
    found = (
        f"{counted(count, 'core')} for {counted(local_ranks, 'rank')} with {counted(workers, 'loader process')} each"
    )
    if device == "cpu" and local_ranks > count:
        return Finding("cores", "warn", found, "ranks wait for each other's turns: start at most a rank a core")
    if busy > 2 * count:
        return Finding("cores", "warn", found, f"lower data.workers to about {max(1, count // local_ranks)}")
    return Finding("cores", "ok", found)


def open_files(limit: int, world_size: int, workers: int) -> Finding:
    """Compare the limit on open descriptors with what a rank needs."""
    needed = OWN_FILES + FILES_PER_RANK * world_size + FILES_PER_WORKER * workers
    found = f"at most {limit:,} in a process; a rank of this run opens about {needed}"
    advice = f"raise the limit before the start, such as with ulimit -n {max(4096, 4 * needed)}"
    if limit < needed:
        return Finding("open files", "fail", found, advice)
    return Finding("open files", "warn", found, advice) if limit < 2 * needed else Finding("open files", "ok", found)


def needed_memory_bytes(run: RunContext) -> int:
    """Return about how much the ranks of this machine need for weights and maps; their libraries come on top."""
    accumulate, plan, topology = run.config.train.accumulate, run.plan, run.topology
    weights = TENSORS_IN_MEMORY * 4 * geometry.parameter_count(run.net)
    images = plan.global_batch // topology.replicas // accumulate
    maps = 3 * 4 * images * sum(shape.channels * shape.convolved_side**2 for shape in geometry.shapes(run.net))
    replicas = max(1, run.launched.local_world_size * len(topology.towers) // 2)
    return replicas * (weights + maps) if topology.device.type == "cpu" else replicas * weights


def memory(available: int | None, needed: int) -> Finding:
    """Compare the free memory with what the ranks of this machine need."""
    if available is None:
        return Finding(
            "memory", "warn", "this system does not say how much is free", f"about {_size(needed)} is needed"
        )
    found = f"{_size(available)} free; the ranks here need about {_size(needed)}"
    if available < needed:
        return Finding("memory", "fail", found, "lower data.global_batch, raise train.accumulate, or start fewer ranks")
    return Finding("memory", "ok", found)


def shared_memory() -> Finding:
    """Create the locks of loader processes, which are in /dev/shm."""
    try:
        resources.check_room_for_locks(LOCKS)
    except PermanentError as error:
        found, _, advice = str(error).partition("; ")
        return Finding("/dev/shm", "fail", found, advice)
    return Finding("/dev/shm", "ok", f"{_size(shutil.disk_usage('/dev/shm').free)} free")


def disk(directory: Path, checkpoint_bytes: int, keep: int) -> Finding:
    """Compare the free disk with the checkpoints that a run keeps and the one that it writes."""
    try:
        existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            kind = "not writable" if existing.is_dir() else "not a directory"
            return Finding("disk", "fail", f"{directory}: {existing} is {kind}", "choose another run.directory")
        free = shutil.disk_usage(existing).free
        written = len(checkpoint.finished_steps(directory / CHECKPOINTS))
    except OSError as error:
        return Finding("disk", "fail", f"{directory}: {error.strerror}", "choose another run.directory")
    needed = (max(0, keep - written) + 1) * checkpoint_bytes
    found = f"{_size(free)} free for {directory}; checkpoints of {_size(checkpoint_bytes)} need {_size(needed)} more"
    advice = "free some, lower run.keep, or choose another run.directory"
    if free < min(needed, 2 * checkpoint_bytes):
        return Finding("disk", "fail", found, advice)
    return Finding("disk", "warn", found, advice) if free < needed else Finding("disk", "ok", found)


def port(address: str, base: int | None, local_rank: int) -> Finding:
    """Listen where this rank's metrics are to be served."""
    if base is None:
        return Finding("metrics", "ok", "not served: metrics.port is null")
    number = base and base + local_rank
    host = address.removeprefix("[").removesuffix("]")
    try:
        if number > LAST_PORT:
            raise OSError(f"above {LAST_PORT}")
        family = socket.getaddrinfo(host, None)[0][0]
        socket.create_server((host, number), family=family).close()
    except (OSError, UnicodeError) as error:
        return Finding(
            "metrics",
            "warn",
            f"port {number} of {address} cannot be used: {getattr(error, 'strerror', None) or error}",
            "the run serves its metrics on another port, which targets.json names; set metrics.port to a free one",
        )
    if base == 0:
        return Finding("metrics", "ok", f"served on any free port of {address}; targets.json names it")
    return Finding("metrics", "ok", f"ports from {base} on {address}")


def restarts(launched: LaunchInfo, most: int | None, has_handler: bool) -> Finding:
    """Tell whether the run comes back by itself after a lost rank."""
    if not launched.under_torchrun:
        return Finding("restarts", "ok", "none: this is not under torchrun; the same command resumes a run")
    if not has_handler:
        return Finding(
            "restarts",
            "warn",
            "torchrun has not loaded alexnet_dist: it restarts what a restart cannot cure, and a lost node stays lost",
            "install alexnet_dist with pip into the environment of torchrun, on each node",
        )
    if not most:
        return Finding(
            "restarts", "ok", "none: torchrun was started without --max-restarts; the same command resumes a run"
        )
    return Finding("restarts", "ok", f"up to {most}, by torchrun")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:,.1f} MB"
