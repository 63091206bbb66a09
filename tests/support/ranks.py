"""Ranks as real processes over gloo, on this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable, Collection
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

Ranks = Callable[..., list[Any]]


def free_port() -> int:
    """Return a port that was free when it was checked."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rank(
    function: Callable[..., Any], rank: int, world_size: int, port: int, answer: Connection, arguments: Any
) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1",
    )  # fmt: skip
    import torch

    torch.set_num_threads(1)
    try:
        # Pickled here: Connection.send would pass tensors as shared memory, which disappears with this process.
        answer.send_bytes(pickle.dumps((True, function(*arguments))))
    except BaseException:
        answer.send_bytes(pickle.dumps((False, traceback.format_exc())))
        sys.exit(1)


def rank_runner() -> Ranks:
    """Return a function that calls `function(*arguments)` in `world_size` processes and returns their answers by rank.

    lost: ranks that are expected to stop or die; their answer is None, and they are killed once all others have
    answered. The processes have the environment that torchrun sets; the function, which must be importable, joins the
    process groups itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alexnet_dist.train", "alexnet_dist.training.train"])

    def run(world_size: int, function: Callable[..., Any], *arguments: Any, lost: Collection[int] = ()) -> list[Any]:
        port = free_port()
        pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
        processes = [
            context.Process(target=_rank, args=(function, rank, world_size, port, pipes[rank][1], arguments))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()
        answers: dict[int, Any] = {}
        failure = None
        readers = {receiver.fileno(): (rank, receiver) for rank, (receiver, _) in enumerate(pipes) if rank not in lost}
        while readers and failure is None:
            ready = wait(list(readers), timeout=120)
            if not ready:
                failure = f"ranks {sorted(rank for rank, _ in readers.values())}: no answer within 120 s"
            for number in ready:
                assert isinstance(number, int)
                rank, receiver = readers.pop(number)
                try:
                    succeeded, answers[rank] = pickle.loads(receiver.recv_bytes())
                except EOFError:
                    succeeded, answers[rank] = False, "died without an answer"
                if not succeeded:
                    failure = failure or f"rank {rank} of {world_size}: {answers[rank]}"
        for rank, process in enumerate(processes):
            if failure or rank in lost:
                process.kill()
            process.join()
            process.close()
        for receiver, _ in pipes:
            receiver.close()
        if failure:
            pytest.fail(failure)
        return [answers.get(rank) for rank in range(world_size)]

    return run
