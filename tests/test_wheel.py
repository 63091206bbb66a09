"""The wheel, installed into a fresh environment and used from an empty folder: pack, train, evaluate, predict."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command in a folder and return its stdout; the test fails with all output if it fails."""
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return the interpreter of an environment that holds the wheel, and its dependencies by reference."""
    run(sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--quiet", "--wheel-dir", tmp_path / "w", cwd=tmp_path)
    (wheel,) = (tmp_path / "w").glob("*.whl")
    home = tmp_path / "venv"
    venv.create(home)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel, cwd=tmp_path)
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    # A path in a .pth file is not searched for .pth files itself, so the editable install there is not seen.
    (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_does_the_whole_job_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    generator = np.random.default_rng(0)
    for label in range(10):
        folder = empty / "images" / f"class-{label}"
        folder.mkdir(parents=True)
        for number in range(24):
            pixels = np.full((70, 70, 3), 25 * label) + generator.integers(0, 20, (70, 70, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.jpg")
    where = run(installed, "-c", "import alexnet_dist; print(alexnet_dist.__file__)", cwd=empty)
    assert str(tmp_path / "venv") in where
    script = installed.with_name("alexnet-dist")
    for split in ("train", "val"):
        options = ["--size", "64", "--holdout", "0.2", "--split", split]
        packed = run(script, "pack", "images", "shards", *options, cwd=empty)
        assert json.loads(packed.splitlines()[-1])["rejected"] == 0
    ranks: list[str | Path] = [installed, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    keys = ["data.root=shards", "run.directory=run", "run.steps=20", "data.global_batch=16", "metrics.port=null"]
    trained = run(*ranks, "-m", "alexnet_dist.train", "--config", "demo", *keys, cwd=empty)
    assert "finished: 20 steps" in trained
    result = json.loads(run(script, "evaluate", "run", "--json", cwd=empty))
    assert result["images"] == 50
    predictions = json.loads(run(script, "predict", "run", "images/class-3/0.jpg", "--json", cwd=empty))
    assert len(predictions[0]["classes"]) == 5
