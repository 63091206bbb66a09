"""Signals that ask a process to stop, in processes whose main thread never runs Python again."""

from __future__ import annotations

import signal
import time

import pytest

from alexnet_dist.system.signals import USELESS_S
from support.programs import WAIT_IN_C, read_line, running

WATCH = """
import os, signal, sys, threading, time
from alexnet_dist.system.signals import StopRequest
stop = StopRequest((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP), grace_s=float(sys.argv[1]))
assert not stop
"""
REPORT_AND_EXIT = """
def report():
    while not stop:
        time.sleep(0.01)
    print("asked to stop", flush=True)
    os._exit(7)
threading.Thread(target=report, daemon=True).start()
"""


def test_a_signal_sets_the_flag_while_the_main_thread_waits_in_c() -> None:
    with running(f"{WATCH}{REPORT_AND_EXIT}{WAIT_IN_C}", "60") as process:
        assert read_line(process) == "waiting"
        process.send_signal(signal.SIGTERM)
        assert read_line(process) == "asked to stop"
        assert process.wait(10) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_without_grace_a_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    with running(f"{WATCH}{WAIT_IN_C}", "0") as process:
        assert read_line(process) == "waiting"
        process.send_signal(number)
        assert process.wait(10) == 128 + number


def test_a_process_that_does_not_stop_in_its_grace_is_ended() -> None:
    with running(f"{WATCH}{WAIT_IN_C}", "0.2") as process:
        assert read_line(process) == "waiting"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 143
        assert errors == "not stopped 0 s after signal 15: exiting\n"


def test_a_process_that_stops_in_its_grace_ends_as_it_likes() -> None:
    with running(f"{WATCH}print('ready', flush=True)\nwhile not stop: time.sleep(0.01)", "60") as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_other_signals_are_left_alone() -> None:
    with running(f"{WATCH}{WAIT_IN_C}", "60") as process:
        assert read_line(process) == "waiting"
        process.send_signal(signal.SIGUSR2)
        assert process.wait(10) == -signal.SIGUSR2


def test_ignored_signals_do_nothing() -> None:
    program = """
import os, signal
from alexnet_dist.system.signals import ignore_signals
ignore_signals((signal.SIGTERM, signal.SIGUSR1))
os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGUSR1)
print("alive")"""
    with running(program) as process:
        assert process.communicate(timeout=10) == ("alive\n", "")


def test_a_process_may_be_given_less_grace() -> None:
    with running(WATCH + "stop.allow(0)" + WAIT_IN_C, "60") as process:
        assert read_line(process) == "waiting"
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM


def test_a_process_that_waits_in_vain_is_ended_before_its_grace_is_over() -> None:
    program = WATCH + "began_s = time.monotonic()\nstop.allow(60, lambda: time.monotonic() - began_s > 0.5)" + WAIT_IN_C
    with running(program, "60") as process:
        assert read_line(process) == "waiting"
        began_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=15)[1] == f"waited {USELESS_S:g} s after signal 15 in vain: exiting\n"
        assert process.returncode == 128 + signal.SIGTERM
        assert time.monotonic() - began_s + 0.1 > USELESS_S


def test_nohup_is_respected() -> None:
    program = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)" + WATCH + "print('ready', flush=True)"
    with running(program + "\ntime.sleep(0.5)\nprint(bool(stop))", "0") as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGHUP)
        assert process.communicate(timeout=10) == ("False\n", "")


def test_grace_begins_again_when_it_is_set() -> None:
    """A signal long before must not cut short what comes after the checkpoint is saved."""
    program = WATCH + "print('ready', flush=True)\nstop.wait(60)\ntime.sleep(0.5)\nstop.allow(0.5)\ntime.sleep(60)"
    with running(program, "60") as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143


USELESS = """
import os, signal, sys, time
from alexnet_dist.system.signals import StopRequest
stop = StopRequest((signal.SIGTERM,), 0.5, lambda: sys.argv[1] == "useless", lambda late: print(late, flush=True))
if sys.argv[1] == "allowed":
    stop.allow(0.2)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("how", "said", "errors"),
    [
        ("useless", "", ""),
        ("late", "not stopped 0 s after signal 15: exiting\n", ""),
        ("allowed", "", "not stopped 0 s after signal 15: exiting\n"),
    ],
)
def test_what_is_late_before_the_first_step_is_passed_on(how: str, said: str, errors: str) -> None:
    with running(USELESS, how) as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10) == (said, errors)
        assert process.returncode == 143
