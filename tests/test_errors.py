"""Exit codes and messages of commands that return, fail or are interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from alexnet_dist.errors import RunError, UserError, run_command


def raising(error: BaseException) -> int:
    def command(_arguments: list[str]) -> None:
        raise error

    return run_command(command, [])


def test_a_command_that_returns_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    assert run_command(seen.append, ["a", "b"]) == 0
    monkeypatch.setattr("sys.argv", ["program", "c"])
    assert run_command(seen.append) == 0
    assert seen == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("data.root: shards: no such folder"), 2, "error: data.root: shards: no such folder\n"),
        (RunError("rank 1 is gone"), 1, "error: rank 1 is gone\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C\n"),
    ],
)
def test_what_is_expected_ends_with_one_line(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(error) == code
    assert capsys.readouterr() == ("", message)


def test_our_own_faults_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())


# What a command prints.

SCRIPT = """
import os, sys
from alexnet_dist.errors import run_command

def command(arguments):
    {body}

sys.exit(run_command(command, []))
"""
PRINTING = {
    "a little": "print('a')",
    "a lot": "print('a' * 1_000_000)",
    "line by line": "[print('a', flush=True) for _ in range(1000)]",
    "to stderr": "[print('a', file=sys.stderr) for _ in range(1000)]",
    "and ends": "print('a'); sys.exit(0)",
}


def start(body: str, **options: Any) -> subprocess.Popen[str]:
    """Start a command with this body; PYTHONUNBUFFERED, if it is set here, would leave nothing to write at exit."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= options.pop("environment", {})
    arguments = [sys.executable, "-c", SCRIPT.format(body=body)]
    return subprocess.Popen(arguments, env=environment, text=True, **options)


@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("name", PRINTING)
def test_a_reader_that_has_gone_ends_a_command_quietly(name: str, unbuffered: dict[str, str]) -> None:
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.DEVNULL, "stderr": write} if name == "to stderr" else {"stdout": write}
    process = start(PRINTING[name], environment=unbuffered, **{"stderr": subprocess.PIPE, **streams})
    os.close(write)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 141
    assert not error


def test_a_broken_pipe_inside_a_command_is_a_fault_of_ours() -> None:
    body = "read, write = os.pipe(); os.close(read); os.write(write, b'a')"
    process = start(body, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.endswith("BrokenPipeError: [Errno 32] Broken pipe\n")


def test_a_full_disk_below_stdout_is_said() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = start("print('a')", stdout=full, stderr=subprocess.PIPE)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error == "error: the output of this command cannot be written: No space left on device\n"


def test_a_command_without_stdout_runs() -> None:
    process = start("print('a')", preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")


ASCII = (
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
)


@pytest.mark.parametrize("environment", [*ASCII, {}], ids=str)
@pytest.mark.parametrize("text", ["bäume 2 × 2", "\udcff"], ids=ascii)
def test_a_character_that_a_stream_cannot_encode_is_escaped(text: str, environment: dict[str, str]) -> None:
    """The second text is how Python holds a byte of a file name that is not UTF-8."""
    body = f"text = {text!a}; print(text); print(text, file=sys.stderr)"
    process = start(body, stdout=subprocess.PIPE, stderr=subprocess.PIPE, environment=environment, encoding="utf-8")
    output, error = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output == error
    assert output.strip() in (text, text.encode("ascii", "backslashreplace").decode())
