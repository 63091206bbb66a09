"""`make demo DATA=...` passes any path whole to the command."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARGUMENTS = '#!/bin/sh\nprintf "%s\\n" "$@"\n'

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def arguments(home: Path, *words: str, data: str | None = None) -> list[str]:
    """Return the arguments that `make demo` gives to Python, which is replaced by a script."""
    python = home / "bin" / "python"
    python.parent.mkdir(exist_ok=True)
    python.write_text(ARGUMENTS)
    python.chmod(0o755)
    environment = os.environ | ({} if data is None else {"DATA": data})
    command = ["make", "-s", "-C", str(ROOT), "demo", "READY=", f"BIN={python.parent}", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


PATHS = (
    "/a/b", "a b", "a ", "it's", "'", '"a"', "a'b\"c", "$HOME", "a$b", "$(HOME)", "a#b", "a;b", "a&b", "a|b", "*",
    "~/a", "`a`", "a\\b", "-a", "a,b", "a=b", "a:b", "bäume",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_passed_whole(path: str, tmp_path: Path) -> None:
    expected = ["-m", "alexnet_dist.demo", f"--data={path}"]
    assert arguments(tmp_path, f"DATA={path}") == expected
    assert arguments(tmp_path, data=path) == expected


def test_without_a_path_there_is_no_option(tmp_path: Path) -> None:
    assert arguments(tmp_path) == ["-m", "alexnet_dist.demo"]
    assert arguments(tmp_path, "DATA=") == ["-m", "alexnet_dist.demo"]
