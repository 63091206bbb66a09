"""How a command ends: 0 done, 2 the user's mistake (one message, no traceback), 1 anything else."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake of the user's; its text names the file, line or key, what was found, what was expected, and the fix."""


class RunError(Exception):
    """What ended a run without being anybody's mistake, such as a lost rank or a full disk; its text says it whole."""


def run_command(command: Callable[[list[str]], None], arguments: list[str] | None = None) -> int:
    """Run a command on its arguments (default: the process's own) and return its exit code.

    Anything but the errors above and Ctrl-C is a fault of ours and leaves with its traceback, which Python ends
    with 1.
    """
    try:
        command(sys.argv[1:] if arguments is None else arguments)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130
    return 0
