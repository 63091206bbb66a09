"""Steps in a thread of their own, or with backward in one, as autograd has on CUDA: the same bits, the same errors.

The loader and torch's compiler are first used in that thread, while the main thread waits as it does in C++, where it
handles no signal. On a CPU autograd stays in the thread that calls it.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alexnet_dist import config
from alexnet_dist.data.loader import Loader, worker_death_as_error
from alexnet_dist.distributed.groups import Groups
from alexnet_dist.errors import RunError
from alexnet_dist.nn.compiler import compile_problem
from alexnet_dist.system.environment import launch_info
from alexnet_dist.training.build import build_engine
from alexnet_dist.training.context import RunContext
from alexnet_dist.training.feed import Batch, Feed
from alexnet_dist.training.inputs import open_loader, open_run
from alexnet_dist.training.step import train_step
from support.ranks import Ranks
from support.steps import RATES
from support.training import settings

STEPS = 3
# The compiler takes seconds for each norm, so there is one.
WORDS = ("train.compile_norm=true", "model.layers.conv2.norm=false", "data.workers=2", "train.device=cpu")
DEATH = re.compile(r"loader process \d+ (was killed by a signal \(Killed\)|died); most likely memory")
Place = Callable[[Callable[[], None]], None]


@dataclass
class Outcome:
    """What came of some steps.

    problem: of the compiler on this machine. death: the message about a loader process that was killed after the steps.
    """

    losses: list[float]
    weights: dict[str, Tensor]
    problem: str | None = None
    death: str = ""


def here(function: Callable[[], None]) -> None:
    function()


def in_a_thread(function: Callable[[], None]) -> None:
    """Call a function in a new thread, and raise here what is raised there, as for autograd's threads."""
    errors: list[BaseException] = []

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        try:
            function()
        except BaseException as error:
            errors.append(error)

    # Python's handlers run in the main thread. A signal to it would end this wait, as it does not end one in C++.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for error in errors:
        raise error


def with_backward_in_a_thread(function: Callable[[], None]) -> None:
    backward = torch.Tensor.backward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "backward", lambda loss: in_a_thread(partial(backward, loss)))
        function()


PLACES = (here, in_a_thread, with_backward_in_a_thread)


class LosingFeed(Feed):
    """A feed whose loader loses a process when backward asks for the next batch, after so many were taken."""

    taken = 0
    lose_after: int | None = None

    def take(self) -> Batch:
        batch = super().take()
        self.taken += 1
        return batch

    def send_ahead(self) -> None:
        super().send_ahead()
        if self.taken == self.lose_after:
            os.kill(min(process.pid or 0 for process in multiprocessing.active_children()), signal.SIGKILL)
            deque(self._loaded, maxlen=0)  # those that were ready; then it waits for the lost process


def take_steps(run: RunContext, loader: Loader, outcome: Outcome, lose: bool) -> None:
    """Take the steps and note what came of them; then, to lose a loader process, begin another one."""
    outcome.problem = compile_problem(run.topology.device)
    if outcome.problem:
        return
    engine = build_engine(run, Groups())
    feed = LosingFeed(run, run.plan.batches(0, 1, 0, 0), loader, None, engine.timeline)
    outcome.losses = [train_step(engine, feed, step, RATES).read().loss for step in range(STEPS)]
    outcome.weights = {name: weight.detach().clone() for name, weight in engine.model.named_parameters()}
    if lose:
        feed.lose_after = STEPS + 1
        train_step(engine, feed, STEPS, RATES)


def run_steps(words: list[str], place: Place, lose: bool) -> Outcome:
    """Take steps at a place, with the loader opened and errors explained as `train` does; for a process of its own."""
    outcome = Outcome([], {})
    run = open_run(config.load([Path(words[1])], words[2:]).config, launch_info())
    try:
        with worker_death_as_error(), open_loader(run) as loader:
            place(partial(take_steps, run, loader, outcome, lose))
    except RunError as error:
        outcome.death = str(error)
    return outcome


def test_a_step_in_a_thread_has_the_same_bits_and_reports_a_dead_worker(
    shards: Path, tmp_path: Path, run_ranks: Ranks
) -> None:
    words = settings(shards, tmp_path, "topology.layout=fused", *WORDS)
    with ThreadPoolExecutor(3) as threads:  # they wait most of the time
        ran = threads.map(lambda place: run_ranks(1, run_steps, words, place, place is not here), PLACES)
        expected, *outcomes = [outcome for (outcome,) in ran]
    if expected.problem:
        pytest.skip(f"torch.compile fails here: {expected.problem}")
    assert len(set(expected.losses)) == STEPS
    for outcome in outcomes:
        assert outcome.losses == expected.losses
        assert outcome.weights.keys() == expected.weights.keys()
        for name, weight in outcome.weights.items():
            assert weight.equal(expected.weights[name]), name
        assert DEATH.match(outcome.death)
