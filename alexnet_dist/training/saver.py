"""Checkpoints behind the steps: a copy in memory, a thread that writes it, a manifest once all towers are durable.

A save has two phases, in which training goes on: every rank of replica 0 writes its towers, then rank 0 writes the
manifest. The ranks learn from the status sum of a step that a phase is over, all at the same step. Threads only write
files: what ranks exchange, they exchange in the main thread.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from alexnet_dist.distributed.control import Control
from alexnet_dist.errors import UserError
from alexnet_dist.nn import geometry
from alexnet_dist.nn.model import merge_cross_weights
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS, best_step, mark_saved
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.faults import SAVE, Injector

# Of writes that a restart would not cure: the disk is full, or the run directory was removed.
PERMANENT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT)
RETRIES = 8  # of a save that failed, until the next one is due
BACKGROUND_BYTES = 2**26  # of a net's state, from which it is written behind the steps


@dataclass(frozen=True)
class Report:
    """What a rank says of its part of a save, as in Saved."""

    not_finite: int = 0
    error: str = ""
    permanent: bool = False
    gone: bool = False
    note: str = ""


@dataclass(frozen=True)
class Save:
    """A save in progress. state: of the manifest. writing: this rank's part, None if it has none.

    towers_written: whether only the manifest is missing.
    """

    step: int
    state: Mapping[str, Any]
    writing: Future[Report] | None
    towers_written: bool = False


@dataclass(frozen=True)
class Saved:
    """How a save ended, the same on every rank; it is valid unless `not_finite` or `error` is set.

    not_finite: tensors that are not finite. error: why a file could not be written, permanent: also after a restart.
    gone: because the run directory has been removed. note: what else went wrong.
    """

    step: int
    not_finite: int = 0
    error: str = ""
    permanent: bool = False
    gone: bool = False
    note: str = ""


class Saver:
    """Saves one checkpoint at a time; every rank calls it at the same steps."""

    def __init__(self, run: RunContext, control: Control, injector: Injector | None = None) -> None:
        """Begin with no save in progress; injector: of faults, in tests."""
        self._run, self._control, self._injector = run, control, injector
        self._home = run.directory / CHECKPOINTS
        # Of weights and velocities; from the geometry, as the ranks of a node may have both towers and others one.
        self._in_background = 2 * 4 * geometry.parameter_count(run.net) >= BACKGROUND_BYTES
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._save: Save | None = None
        self.saved_step: int | None = None  # of the last valid checkpoint of this start
        self.failure: Saved | None = None  # the first save that failed, until one succeeds

    def is_retry(self, step: int) -> bool:
        """Return whether a save that has failed is tried again after a step."""
        if self.failure is None or step <= self.failure.step:
            return False
        every = -(-self._run.config.run.save_every // RETRIES)
        return (step - self.failure.step) % every == 0

    @property
    def status(self) -> tuple[float, float]:
        """This rank's part of a step's status: whether it still writes a tower, and whether the manifest is missing."""
        save = self._save
        if save is None:
            return 0.0, 0.0
        writing = save.writing is not None and not save.writing.done()
        missing = self._run.topology.is_rank0 and (writing or not save.towers_written)
        return float(writing and not save.towers_written), float(missing)

    def begin(self, step: int, state: Mapping[str, Any], towers: Mapping[int, Mapping[str, Tensor]]) -> Saved | None:
        """Copy this rank's towers and begin to write them; a small net's are written before it returns how that ended.

        towers: tensors as Engine.tensors returns them, of a rank of replica 0; those of others are empty. No save may
        be in progress.
        """
        assert self._save is None, "a save is finished before the next one begins"
        copies = {tower: {name: _copy(tensor) for name, tensor in named.items()} for tower, named in towers.items()}
        self._save = Save(step, state, self._thread.submit(self._write_towers, step, copies) if copies else None)
        return None if self._in_background else self.finish()

    def poll(self, towers_missing: float, manifest_missing: float) -> Saved | None:
        """Act on the sums of a step's `status`; return how the save ended, if it has."""
        if self._save is None:
            return None
        if not self._save.towers_written:
            return self._end_towers() if towers_missing == 0 else None
        return self._end_manifest() if manifest_missing == 0 else None

    def finish(self) -> Saved | None:
        """Wait for the save in progress and return how it ended; None without one."""
        if self._save is None:
            return None
        if not self._save.towers_written and (ended := self._end_towers()):
            return ended
        return self._end_manifest()

    def rewrite_manifest(self, step: int, state: Mapping[str, Any]) -> Saved:
        """Write the manifest of the last checkpoint again, with another state; return how that ended."""
        writing = self._submit_manifest(Save(step, state, None))
        self._save = Save(step, state, writing, towers_written=True)
        return self._end_manifest()

    def close(self) -> None:
        """Wait for the thread."""
        self._thread.shutdown()

    def _write_towers(self, step: int, towers: Mapping[int, Mapping[str, Tensor]]) -> Report:
        not_finite = sum(not bool(tensor.isfinite().all()) for named in towers.values() for tensor in named.values())
        if not_finite:
            return Report(not_finite)
        try:
            for tower, tensors in towers.items():
                if self._injector is not None:
                    self._injector.strike(step, SAVE)
                # Here and not before the copy, which would take twice as long.
                checkpoint.write_tower(self._home, step, tower, merge_cross_weights(tower, tensors))
        except OSError as error:
            return _failed(error)
        return Report()

    def _write_manifest(self, save: Save) -> Report:
        try:
            checkpoint.commit(self._home, save.step, save.state, self._run.net.towers)
        except OSError as error:
            return _failed(error)
        try:  # the checkpoint is valid, whatever happens now
            mark_saved(self._run.directory, save.step)
            settings, best = self._run.config.run, None
            if settings.keep_best:
                best = best_step(self._run.directory, checkpoint.finished_steps(self._home))
            checkpoint.delete_old(self._home, save.step, settings.keep, best)
        except (OSError, UserError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            return Report(note=f"{self._home}: not tidied after step {save.step}: {reason}")
        return Report()

    def _end_towers(self) -> Saved | None:
        """Exchange how the towers were written; begin the manifest if all were."""
        save = self._save
        assert save is not None
        ended = self._exchange(save)
        if ended.not_finite or ended.error:
            return ended
        self._save = replace(save, writing=self._submit_manifest(save), towers_written=True)
        return None

    def _submit_manifest(self, save: Save) -> Future[Report] | None:
        return self._thread.submit(self._write_manifest, save) if self._run.topology.is_rank0 else None

    def _end_manifest(self) -> Saved:
        save = self._save
        assert save is not None
        ended = self._exchange(save)
        if not (ended.not_finite or ended.error):
            self.saved_step, self.failure = save.step, None
        self._save = None
        return ended

    def _exchange(self, save: Save) -> Saved:
        """Return how this phase of a save has ended; all ranks wait for each other."""
        own = Report() if save.writing is None else save.writing.result()
        reports = [Report(**json.loads(text)) for text in self._control.gather(json.dumps(asdict(own)))]
        not_finite = sum(report.not_finite for report in reports)
        first = next((report for report in reports if report.error), Report())
        permanent, gone = (any(getattr(report, name) for report in reports) for name in ("permanent", "gone"))
        note = next((report.note for report in reports if report.note), "")
        if not_finite or first.error:
            self._save = None
            self._remove(save)
        return Saved(save.step, not_finite, first.error, permanent, gone, note)

    def _remove(self, save: Save) -> None:
        """Make room for the next checkpoint, unless this one is valid."""
        home = checkpoint.step_directory(self._home, save.step)
        if self._run.topology.is_rank0 and not (home / checkpoint.MANIFEST).exists():
            with suppress(OSError):
                shutil.rmtree(home)


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy in host memory, which the next step does not change."""
    return tensor.to("cpu", copy=True).contiguous()


def _failed(error: OSError) -> Report:
    return Report(0, error.strerror or str(error), error.errno in PERMANENT, error.errno == errno.ENOENT)
