"""Processes that die with a parent, and what siblings do, tested in subprocesses."""

from __future__ import annotations

import signal

from support.programs import WAIT_IN_C, read_line, running

DIE = "import os; from alexnet_dist.system.process import die_with_parent"


def test_a_child_dies_with_its_parent() -> None:
    child = f"""
import os, signal
from alexnet_dist.system.process import die_with_parent
from alexnet_dist.system.signals import ignore_signals
ignore_signals((signal.SIGTERM, signal.SIGINT))
die_with_parent(os.getppid())
{WAIT_IN_C}"""
    parent = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"
    with running(parent, child) as process:
        assert read_line(process) == "waiting"  # from the child, which writes to the same pipe
        process.send_signal(signal.SIGKILL)
        # The pipe reaches its end when its last writer, the child, has died.
        assert process.communicate(timeout=10) == ("", "")


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    program = f"{DIE}; die_with_parent(os.getpid()); print('alive')"
    with running(program) as process:
        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == 1


def test_a_process_goes_on_while_its_parent_lives() -> None:
    program = f"{DIE}; die_with_parent(os.getppid()); print('alive')"
    with running(program) as process:
        assert process.communicate(timeout=10) == ("alive\n", "")
        assert process.returncode == 0


SIBLINGS = """
import os, signal, subprocess, sys, time
child = "import sys; from alexnet_dist.system.process import sibling_state; print(sibling_state(int(sys.argv[1])))"
def state(process):
    print(subprocess.run([sys.executable, "-c", child, str(process)], capture_output=True, text=True).stdout.strip())
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
state(other.pid)
os.kill(other.pid, signal.SIGSTOP); time.sleep(0.2)
state(other.pid)
os.kill(other.pid, signal.SIGKILL); time.sleep(0.2)
state(other.pid)
other.wait()
state(other.pid)
failed = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]); time.sleep(1)
state(failed.pid)
state(1)
"""


def test_the_state_of_a_sibling_is_seen() -> None:
    with running(SIBLINGS) as process:
        said, _ = process.communicate(timeout=30)
    # Process 1 has another parent.
    assert said.split("\n")[:-1] == ["running", "stopped", "signal 9", "gone", "exit code 3", "gone"]
