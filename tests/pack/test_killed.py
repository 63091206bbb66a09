"""A pack that is killed by kill -9 at twenty random moments ends with the same bytes as an uninterrupted one."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_dist.pack.records import records_folder
from support.folders import contents
from support.layouts import WRITERS, draw_images, source_path

KILLS = 20


def command(source: Path, out: Path) -> list[str]:
    options = ["--size", "64", "--samples-per-shard", "20", "--processes", "2"]
    return [sys.executable, "-m", "alexnet_dist.pack", str(source), str(out), *options]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("layout", ["folder", "ilsvrc2012", "parquet", "huggingface-tar"])
def test_killed_at_random_moments(layout: str, tmp_path: Path, photographs: list[bytes]) -> None:
    source = WRITERS[layout](tmp_path / "source", draw_images(train=140, val=2, photographs=photographs))
    source = source_path(source, layout, "train")
    began_s = time.monotonic()
    subprocess.run(command(source, tmp_path / "whole"), check=True, capture_output=True)
    whole_s = time.monotonic() - began_s
    expected, out = contents(tmp_path / "whole"), tmp_path / "out"
    generator, kills, finished_runs = random.Random(7), 0, 0
    while kills < KILLS:
        before = {path.name: path.stat().st_ino for path in out.glob("train-*.tar")} if out.exists() else {}
        recorded = {path.name for path in records_folder(out, "train").glob("*.npz")}
        process = subprocess.Popen(command(source, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=generator.uniform(0.3, 1.0) * whole_s)
        except subprocess.TimeoutExpired:
            kills += 1
        process.kill()
        process.wait()
        finished = {name for name in before if f"shard-{name[6:12]}.npz" in recorded}
        for name in finished:
            assert (out / name).stat().st_ino == before[name], f"{name} was written again"
        if (out / "train.manifest.json").exists():
            assert contents(out) == expected
            finished_runs += 1
            for path in sorted(out.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    subprocess.run(command(source, out), check=True, capture_output=True)
    assert contents(out) == expected
    print(f"{layout}: {kills} kills, finished {finished_runs + 1} times, {whole_s:.1f} s uninterrupted")
