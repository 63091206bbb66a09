"""Exit codes of the commands: 0 success, 2 a user's mistake, 1 any other error, 130 Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A user's mistake; the text names the file, line or key, what was found, what was expected, and the fix."""


class RunError(Exception):
    """A failure that is no user's mistake, such as a lost rank or a full disk; the text is the complete message."""


def run_command(command: Callable[[list[str]], None], arguments: list[str] | None = None) -> int:
    """Run a command with its arguments (default: sys.argv[1:]) and return its exit code.

    UserError and RunError print one message without a traceback. Any other exception is a bug and propagates; Python
    then prints the traceback and exits with 1.
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
