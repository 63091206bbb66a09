"""Exit codes of the commands: 0 success, 2 a user's mistake, 1 any other error, 130 Ctrl-C, 141 a closed pipe."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from io import TextIOWrapper

CLOSED_PIPE = 141  # what a shell reports of a process that SIGPIPE ended


class UserError(Exception):
    """A user's mistake; the text names the file, line or key, what was found, what was expected, and the fix.

    one_rank: whether only this rank of a run has seen it, so that no other one reports it.
    """

    one_rank = False


class RunError(Exception):
    """A failure that is no user's mistake, such as a lost rank or a full disk; the text is the complete message."""


class LostRankRunError(RunError):
    """The end of a rank that could not go on without another one, which failed first.

    permanent: whether that one would fail again after a restart.
    """

    permanent = False


class RollbackError(RunError):
    """The end of an attempt whose numbers went wrong: the run continues from its last checkpoint without a batch.

    Every rank of the run raises it at the same step, and nothing of the attempt is under way any more.
    """


class PermanentError(RunError):
    """A RunError in which a restart would end again, such as a full disk."""


def run_command(command: Callable[[list[str]], None], arguments: list[str] | None = None) -> int:
    """Run a command with its arguments (default: sys.argv[1:]) and return its exit code.

    UserError and RunError print one message without a traceback. Any other exception is a bug and propagates; Python
    then prints the traceback and exits with 1. A character that stdout or stderr cannot encode is printed as an escape
    sequence. If the reader of a pipe has gone, as in `show | head`, the command ends without a message.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _exit_code(command, sys.argv[1:] if arguments is None else arguments)
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed_pipe(stream)]
        if not closed:
            raise
        for stream in closed:
            _discard(stream)
        return CLOSED_PIPE


def exit_code_of(error: UserError | RunError) -> int:
    """Return the exit code of a command that ends with an error."""
    return 2 if isinstance(error, UserError) else 1


def refuse_to_run(module: str, command: str) -> int:
    """Say that `python -m module` does nothing, and which command was probably meant; return the exit code."""
    print(f"error: {module} is imported by commands, and does nothing by itself; expected {command}", file=sys.stderr)
    return 2


def _exit_code(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    try:
        try:
            command(arguments)
        finally:
            _flush_stdout()  # also before argparse's SystemExit: at exit Python could only print a traceback
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return exit_code_of(error)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130
    return 0


def _flush_stdout() -> None:
    """Write what was printed; RunError if it cannot be written, such as to a full disk."""
    try:
        if sys.stdout is not None:  # it is None if the process was started without one
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard(sys.stdout)
        raise RunError(f"the output of this command cannot be written: {error.strerror}") from None


def _is_closed_pipe(stream: object) -> bool:
    """Return whether a stream is a pipe or socket whose reader has gone."""
    if not isinstance(stream, TextIOWrapper):
        return False
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLERR)
    return bool(poll.poll(0))


def _discard(stream: object) -> None:
    """Discard what is in a stream's buffer and what is printed later: Python flushes the stream at exit."""
    assert isinstance(stream, TextIOWrapper)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)
