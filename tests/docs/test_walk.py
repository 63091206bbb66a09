"""A newcomer's walk: the commands of README.md, from top to bottom, as printed, in a fresh copy of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.documents import ROOT, commands

# The environment exists already, and the suite runs this test: these are run in other ways.
BEFORE = {"make setup", "make test"}


def fresh_checkout(folder: Path) -> Path:
    """Return a copy of the files that git knows or would add, with this Python's environment as its own."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True, timeout=60).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists() or (ROOT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    for name in ("pyproject.toml", "constraints.txt"):  # older than the environment: make does not install again
        os.utime(folder / name, (0, 0))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(None in map(shutil.which, ("git", "make")), reason="git or make is not installed")
def test_the_readme_from_top_to_bottom(tmp_path: Path) -> None:
    checkout = fresh_checkout(tmp_path / "alexnet_dist")
    lines = dict.fromkeys(
        command.text
        for command in commands("README.md")
        if " ".join(command.words) not in BEFORE and "GPU" not in command.comment
    )
    assert len(lines) >= 10
    # One shell for all, as activating the environment is one of the commands. The package is the copy's also for
    # torchrun, whose environment may have this one.
    walk = "\n".join(["set -eo pipefail", f"export PYTHONPATH={checkout}", *lines])
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    done = subprocess.run(
        ["bash", "-c", walk], cwd=checkout, env=plain, capture_output=True, text=True, timeout=1140, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    left = (
        "runs/demo/figures/net.png",
        "runs/shapes/report.html",
        "runs/fc7.npz",
        "runs/shapes.safetensors",
        "runs/shapes/figures",
    )
    assert [name for name in left if not (checkout / name).exists()] == []
    assert "Traceback" not in done.stdout + done.stderr
