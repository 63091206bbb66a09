"""The git checkout that this package is run from, if it is."""

from __future__ import annotations

import subprocess
from pathlib import Path

TIMEOUT_S = 5.0  # on a slow network file system


def commit(folder: Path) -> str | None:
    """Return the commit of a checkout by its root, with `-dirty` if files differ from it; None if it is not known.

    An installed package may lie below the checkout of something else, which says nothing about it.
    """
    if not (folder / ".git").exists():
        return None
    command = ["git", "--no-optional-locks", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run([*command, "--dirty"], capture_output=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return None
    return done.stdout.decode(errors="replace").strip() or None
