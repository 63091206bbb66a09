"""The story of a training run, top to bottom: open everything, step by step train, evaluate and save, close.

Every rank runs all of it; the chief only writes what is written once.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from alexnet_dist import checkpoint, config, geometry, hello, optim, process, run, step, topology
from alexnet_dist.building import build_engine, preparation, schedule_of, set_arithmetic, slowness
from alexnet_dist.config import Config
from alexnet_dist.errors import RunError
from alexnet_dist.feed import Feed
from alexnet_dist.journal import Evaluation, Journal, Told
from alexnet_dist.metrics import Metrics, remove_targets, write_targets
from alexnet_dist.opening import Start, cache_room, open_loader, open_splits, programme_of, resume
from alexnet_dist.parallel import Control, LinkedTower, Word
from alexnet_dist.profiling import profiled
from alexnet_dist.programme import Programme
from alexnet_dist.step import Engine, Started
from alexnet_dist.topology import Topology

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


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
    if launched.under_torchrun:
        process.die_with_parent(os.getppid())
    process.prepare_cuda()
    set_arithmetic(settings)
    splits = open_splits(settings)
    programme = programme_of(settings, splits, place)
    room = cache_room(settings, splits, programme, place, launched.local_world_size)
    directory, net = Path(settings.run.directory), config.geometry(settings)
    with topology.telling(place), ExitStack() as opened:
        if place.is_chief:
            opened.enter_context(run.open_directory(directory, config.to_yaml(settings), splits["train"].to_keep()))
        # Forked before threads, sockets, process groups and CUDA exist, which a fork would copy.
        loader = opened.enter_context(open_loader(settings, splits, programme, place, launched.local_world_size))
        stop = process.StopRequest(STOP_SIGNALS)
        opened.callback(topology.close_groups)
        own = hello.mine(launched, place.layout, place.device.type, place.backend)
        store = hello.meet(own, place.world_size, layout.timeout_s)
        groups = topology.open_groups(place, layout.timeout_s, store)
        control = Control(groups.everyone)
        trainer = build_engine(settings, place, groups)
        if place.device.type == "cuda":
            loader.pin()
        position = programme.position(0, splits["train"].manifest.sha256)
        start = resume(directory, trainer, run.geometry_state(net), position, control, place)
        if start.step >= programme.steps:
            say(place, f"{directory} is finished: {start.step:,} steps; nothing to do")
            return
        link = trainer.model.link if isinstance(trainer.model, LinkedTower) else None
        tasks = programme.tasks(place.replica, place.replicas, start.step, start.evaluations)
        feed = Feed(tasks, loader, place.towers, link, preparation(settings, splits["train"], place), trainer.timeline)
        announce(settings, place, programme, net, start, room)
        metrics = opened.enter_context(closing(open_metrics(settings, directory, place, control)))
        opened.callback(remove_targets, directory / run.TARGETS)
        journal = opened.enter_context(
            Journal(
                directory, place, programme, net, metrics, settings.run.log_every, settings.run.record_samples,
                start.step, start.time_s,
            )
        )  # fmt: skip
        after_step = opened.enter_context(profiled(profile_steps, directory / run.PROFILE, place.rank))
        stop.arm()
        Loop(settings, place, programme, position, trainer, feed, control, journal, stop).go(start, after_step)


@dataclass(frozen=True)
class Loop:
    """What the steps of a run need, open."""

    settings: Config
    place: Topology
    programme: Programme
    position: dict[str, int | str]
    trainer: Engine
    feed: Feed
    control: Control
    journal: Journal
    stop: process.StopRequest

    def go(self, at: Start, after_step: Callable[[], None]) -> None:
        """Step until the programme is over or a rank was asked to stop; save where it is due.

        after_step: called when a step has been ordered.
        """
        schedule, stopping = schedule_of(self.settings), False
        if at.evaluations < self.programme.evaluations_at(at.step):
            at = self.evaluate(at)
        started: deque[tuple[int, float, Started]] = deque()
        words: deque[tuple[Told, Word]] = deque()
        while at.step < self.programme.steps and not stopping:
            rate = optim.learning_rate(schedule, at.progress, at.step, self.programme.steps_per_epoch)
            started.append((at.step + 1, rate, step.train_step(self.trainer, self.feed, at.step, rate)))
            after_step()
            at = replace(at, step=at.step + 1)
            evaluating = self.programme.is_evaluated_after(at.step)
            due = evaluating or at.step == self.programme.steps or at.step % self.settings.run.save_every == 0
            # A step is read when the next one has been ordered, so that a GPU always has work before it, and its word
            # is waited for one step later still; both at once where the outcome is about to be made durable.
            while started and (due or len(started) > 1):
                words.append(self.tell(*started.popleft()))
            while words and (due or len(words) > 1):
                stopping |= self.settle(*words.popleft())
            while stopping and (started or words):
                if started:
                    words.append(self.tell(*started.popleft()))
                self.settle(*words.popleft())
            if evaluating:
                at = self.evaluate(at)
            if due or stopping:
                self.save(at)
        if stopping and at.step < self.programme.steps:
            if self.place.is_chief:
                (self.directory / run.PREEMPTED).write_text(f"stopped and saved at step {at.step}\n")
            self.journal.say(f"asked to stop: saved at step {at.step:,}; the same command goes on from there")
        else:
            self.journal.say(f"finished: {at.step:,} steps in {self.journal.time_s:,.0f} s")

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return Path(self.settings.run.directory)

    @property
    def counts_once(self) -> float:
        """1 on the rank that speaks for its replica, 0 on the other, which computes the same loss."""
        return 1.0 if 0 in self.place.towers else 0.0

    def tell(self, number: int, rate: float, started: Started) -> tuple[Told, Word]:
        """Wait for a step's end, count it, and begin to share what all ranks must know of it."""
        report = started.read()
        told = Told(number, rate, report, self.journal.time_s)
        word = self.control.post(
            [float(bool(self.stop)), self.counts_once * report.loss, self.counts_once * report.wrong]
        )
        self.journal.stepped(number, report, self.feed.take_bad())
        self.journal.sampled(number, report.tasks, [self.feed.own_rows(task) for task in report.tasks])
        return told, word

    def settle(self, told: Told, word: Word) -> bool:
        """Take in a step's word on every rank and return whether to stop; RunError where the loss is not finite."""
        asked, loss, wrong = self.control.wait(word)
        if not math.isfinite(loss):
            self.journal.diverged()
            raise RunError(
                f"step {told.step}: the loss is {loss}: training has diverged; lower optim.learning_rate (now"
                f" {told.rate:g}) and start again; checkpoints before it are in {self.directory / run.CHECKPOINTS}"
            )
        self.journal.logged(told, loss, wrong / self.programme.global_batch)
        return asked > 0

    def evaluate(self, at: Start) -> Start:
        """Evaluate the whole validation set, each image once, and let the schedule see the error."""
        began_s = time.monotonic()
        sums = step.validate(self.trainer, self.feed, self.programme.validation_steps(self.place.replicas))
        loss, top1, top5, images = self.control.sums([self.counts_once * value for value in sums.tolist()])
        if images != self.programme.validation_images:
            raise RunError(f"validation saw {images:.0f} images of {self.programme.validation_images}: a fault of ours")
        top5_error = top5 / images if self.settings.model.classes > 5 else None
        found = Evaluation(loss / images, top1 / images, top5_error)
        self.journal.evaluated(at.step, found, time.monotonic() - began_s)
        progress = optim.after_evaluation(schedule_of(self.settings), at.progress, top1 / images)
        return replace(at, evaluations=at.evaluations + 1, progress=progress)

    def save(self, at: Start) -> None:
        """Write the checkpoint of a completed step: replica 0's towers, then, when both are durable, the manifest."""
        began_s = time.monotonic()
        home = self.directory / run.CHECKPOINTS
        try:
            if self.place.replica == 0:
                for tower in self.place.towers:
                    checkpoint.write_tower(home, at.step, tower, self.trainer.state(tower))
            self.control.sums([0.0])
            if self.place.is_chief:
                state = {
                    **replace(at, time_s=self.journal.time_s).state(),
                    "geometry": run.geometry_state(config.geometry(self.settings)),
                    "position": {**self.position, "step": at.step},
                }
                checkpoint.commit(home, at.step, state, self.settings.run.keep)
        except OSError as problem:
            raise RunError(f"{home}: checkpoint of step {at.step} not written: {problem.strerror}") from None
        self.journal.saved(time.monotonic() - began_s)


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
    if place.is_chief and endpoints:
        write_targets(directory / run.TARGETS, endpoints)
        print(f"metrics: {', '.join(f'http://{one}/metrics' for one in endpoints)}", flush=True)
    return metrics


def announce(
    settings: Config, place: Topology, programme: Programme, net: geometry.Geometry, start: Start, room: str | None
) -> None:
    """Say what is about to be trained, where, from which step, and what remote shards need."""
    if room is not None:
        say(place, room)
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
    if place.is_chief:
        print(text, flush=True)
        sys.stdout.flush()
