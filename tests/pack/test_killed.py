"""Killed by kill -9 at twenty random moments, a pack ends with the bytes of one that was never disturbed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_dist.pack.records import records_folder
from support.arranged import ARRANGE, draw, place_of
from support.folders import contents

KILLS = 20


def command(source: Path, out: Path) -> list[str]:
    options = ["--size", "64", "--samples-per-shard", "20", "--processes", "2"]
    return [sys.executable, "-m", "alexnet_dist.pack", str(source), str(out), *options]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("layout", ["folder", "ilsvrc2012", "parquet", "huggingface-tar"])
def test_killed_at_random_moments(layout: str, tmp_path: Path, photographs: list[bytes]) -> None:
    source = ARRANGE[layout](tmp_path / "source", draw(train=140, val=2, photographs=photographs))
    source = place_of(source, layout, "train")
    began_s = time.monotonic()
    subprocess.run(command(source, tmp_path / "whole"), check=True, capture_output=True)
    whole_s = time.monotonic() - began_s
    expected, out = contents(tmp_path / "whole"), tmp_path / "out"
    chance, kills, again = random.Random(7), 0, 0
    while kills < KILLS:
        before = {path.name: path.stat().st_ino for path in out.glob("train-*.tar")} if out.exists() else {}
        noted = {path.name for path in records_folder(out, "train").glob("*.npz")}
        process = subprocess.Popen(command(source, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=chance.uniform(0.3, 1.0) * whole_s)
        except subprocess.TimeoutExpired:
            kills += 1
        process.kill()
        process.wait()
        finished = {name for name in before if f"shard-{name[6:12]}.npz" in noted}
        for name in finished:
            assert (out / name).stat().st_ino == before[name], f"{name} was made again"
        if (out / "train.manifest.json").exists():
            assert contents(out) == expected
            again += 1
            for path in sorted(out.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    subprocess.run(command(source, out), check=True, capture_output=True)
    assert contents(out) == expected
    print(f"{layout}: {kills} kills, finished {again + 1} times, {whole_s:.1f} s undisturbed")
