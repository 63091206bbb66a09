"""Signals that ask a process to stop: watched by a thread, and ignored by the processes that a rank forks."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType

# torchrun sends these to a rank's whole process group; the loaders must survive them until the rank has saved.
GROUP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# Seconds that a rank has after a signal: until all ranks can agree to stop before the first step; until the run has
# saved, less than the 30 s after which torchrun kills it; until everything is closed.
START_GRACE_S, SAVE_GRACE_S, CLOSE_GRACE_S = 9.0, 25.0, 8.0
USELESS_S = 4.0  # for which a rank that was asked to stop may wait for ranks that have ended


def ignore_signals(signals: Iterable[signal.Signals]) -> None:
    """Ignore signals in this process: torchrun sends them to a rank's whole process group, including its loaders."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


def print_error(message: str) -> None:
    """Print a message on stderr."""
    print(message, file=sys.stderr, flush=True)


def _no_op_handler(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the C-level handler has already written the signal's number into the wakeup socket."""


class StopRequest:
    """A flag that a signal sets, read by a watcher thread instead of a Python signal handler.

    Python runs its handlers between bytecodes of the main thread, so none would run while a collective blocks it. The
    process is expected to read the flag and stop. If it still runs after its seconds of grace, the thread ends it with
    `128 + signal`.
    """

    def __init__(
        self,
        signals: Iterable[signal.Signals],
        grace_s: float = 0.0,
        is_useless: Callable[[], bool] = bool,
        on_late: Callable[[str], None] = print_error,
    ) -> None:
        """Install the handlers and start the thread; call once per process, from its main thread.

        grace_s: as in `allow`. is_useless: whether, before the first `allow`, there is nothing to wait for any more.
        on_late: called in the thread with a message about a process that has not stopped. A SIGHUP that the process
        ignores already, as under nohup, stays ignored.
        """
        self._event = threading.Event()
        self._allowed = (grace_s, time.monotonic())
        self._is_useless, self._useless_s, self._on_late = is_useless, 0.0, on_late
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        watched = [number for number in signals if not _is_hangup_under_nohup(number)]
        for number in watched:
            signal.signal(number, _no_op_handler)
        self._watched = frozenset(int(number) for number in watched)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def _watch(self) -> None:
        while True:
            received = [number for number in self._read.recv(64) if number in self._watched]
            if received:
                break
        received_s = useful_s = time.monotonic()
        self._event.set()
        while True:
            now_s = time.monotonic()
            grace_s, since_s = self._allowed
            remaining_s = max(received_s, since_s) + grace_s - now_s
            if not self._is_useless():
                useful_s = now_s
            elif now_s - useful_s >= self._useless_s:
                if self._useless_s:
                    self._on_late(f"waited {self._useless_s:g} s after signal {received[0]} in vain: exiting")
                break
            if remaining_s <= 0:
                if grace_s:
                    self._on_late(f"not stopped {grace_s:.0f} s after signal {received[0]}: exiting")
                break
            time.sleep(min(remaining_s, 0.1))  # `allow` may change the end
        os._exit(128 + received[0])

    def allow(self, grace_s: float, is_useless: Callable[[], bool] = bool) -> None:
        """Set the seconds within which the process stops by itself, from a signal or this call on; 0: none.

        is_useless: whether it waits in vain; after USELESS_S of that, a process that was asked to stop is ended.
        """
        self._allowed = (grace_s, time.monotonic())
        self._is_useless, self._useless_s, self._on_late = is_useless, USELESS_S, print_error

    def wait(self, timeout_s: float) -> bool:
        """Wait for a signal for at most `timeout_s` and return whether one has been received."""
        return self._event.wait(timeout_s)

    def __bool__(self) -> bool:
        """Return whether a signal has been received."""
        return self._event.is_set()


def _is_hangup_under_nohup(number: signal.Signals) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
