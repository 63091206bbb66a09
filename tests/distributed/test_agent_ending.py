"""What torchrun's agent prints last: why a run of this package ended, in place of its own calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from signal import Signals

import pytest
from torch.distributed import DistNetworkError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousTimeoutError

from alexnet_dist.distributed.agent_ending import first_reason, last_lines, quiet

PROGRAM = """
import os, sys
{join}
os._exit(3)
"""
JOIN = "from alexnet_dist.distributed import final_error; final_error.join()"


def failure(home: Path, rank: int, code: int, message: object = None, time_s: int = 0) -> ProcessFailure:
    """Return what torchrun knows of a rank that has failed; message: None if it has left no file."""
    path = home / f"{rank}.json"
    if message is not None:
        path.write_text(json.dumps({"message": message, "timestamp": time_s}))
    return ProcessFailure(rank, 1000 + rank, code, str(path))


def test_the_first_rank_that_says_something_is_quoted(tmp_path: Path) -> None:
    now_s = int(time.time())
    failures = {
        0: failure(tmp_path, 0, 1, "rank 0 lost rank 2: rank 2 was killed", now_s + 61),
        1: failure(tmp_path, 1, 1, "rank 1 lost rank 2: rank 2 was killed", now_s + 60),
        2: failure(tmp_path, 2, -9),
    }
    assert first_reason(failures).startswith("rank 1 lost rank 2")
    failures[3] = failure(tmp_path, 3, 1, "the disk is full", now_s)
    assert first_reason(failures) == "the disk is full"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-9, "rank 2 was killed by SIGKILL (kill -9, or the kernel because memory ran out); the same command resumes"),
        (-11, "rank 2 was killed by SIGSEGV; the same command resumes from the last checkpoint"),
        (7, "rank 2 has ended with exit code 7 and without a report; the same command resumes"),
    ],
)
def test_if_no_rank_says_anything_the_exit_code_does(code: int, said: str, tmp_path: Path) -> None:
    assert first_reason({2: failure(tmp_path, 2, code)}).startswith(said)
    traceback = {"message": "boom", "extraInfo": {"timestamp": 0, "py_callstack": "Traceback"}}  # of another program
    assert first_reason({2: failure(tmp_path, 2, code, traceback)}).startswith(said)


def test_each_end_has_a_last_line_but_for_bugs(tmp_path: Path) -> None:
    failed = last_lines(ChildFailedError("train", {0: failure(tmp_path, 0, 2, "run.steps: too many")}))
    assert failed is not None
    assert failed.splitlines()[-1] == "error: run.steps: too many"
    assert "exitcode  : 2" in failed
    assert (
        last_lines(SignalException("Process 7 got signal: 2", Signals.SIGINT)) == "torchrun: ended by SIGINT (Ctrl-C)"
    )
    assert last_lines(SignalException("Process 7 got signal: 15", Signals.SIGTERM)) == "torchrun: ended by SIGTERM"
    for error in (DistNetworkError("gone"), RendezvousTimeoutError("late")):
        said = last_lines(error)
        assert said is not None
        assert said.startswith(f"error: torchrun has lost its rendezvous ({type(error).__name__}): the node that")
    assert last_lines(ValueError("a bug")) is None


@pytest.mark.parametrize("ours", [True, False])
def test_other_programs_end_as_they_always_do(ours: bool, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(join=JOIN if ours else ""))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", str(program)]
    done = subprocess.run(
        launcher, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    last = done.stderr.rstrip().splitlines()[-1]
    if ours:
        assert "Traceback" not in done.stderr
        assert last == (
            "error: rank 0 has ended with exit code 3 and without a report; the same command resumes from the last"
            " checkpoint"
        )
    else:
        assert "Traceback (most recent call last):" in done.stderr
        assert last == "=" * len(last)
    assert list(tmp_path.glob("alexnet_dist-*")) == []


def test_nothing_is_written_to_stderr_meanwhile(capfd: pytest.CaptureFixture[str]) -> None:
    print("before", file=sys.stderr)
    with quiet():
        os.write(2, b"from C++")
    print("after", file=sys.stderr)
    assert capfd.readouterr().err == "before\nafter\n"
