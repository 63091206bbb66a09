"""The benchmark ``pack``: our pack, with its exact statistics and its hashes, beside the loop that everybody writes.

Ours is timed as the whole command over all images; what it costs to start (the interpreter, torch, processes) is
timed in the same round by packing two images, and taken off: a set of a thousand images is too small to hide it.
The loop is timed from its first image: decode, resize, crop and encode by Pillow, written by WebDataset's TarWriter.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from alexnet_dist.benchmark.rounds import Entry, Row, children_s, ratio
from alexnet_dist.errors import UserError

SIZE, QUALITY = 256, 90
# An even number of equal shards, so that two processes end together also on a small set; as large as that allows,
# for each shard ends with writes that wait for the disk.
SHARDS = 16
LEAST_FILES = 100
ONE, TWO, PIL = "ours, 1 process on 1 core", "ours, 2 processes", "Pillow loop, 1 process on 1 core"
COLUMNS = {"images_per_second": "images/s", "cpu_ms_per_image": "CPU ms/image", "start_s": "start s"}


def entries(source: Path) -> list[Entry]:
    """Return the contenders over a folder of class folders; UserError where it holds too few files."""
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give --source a folder of class folders, or leave it out")
    found = sum(1 for _ in source.glob("*/*"))
    if found < LEAST_FILES:
        raise UserError(f"{source}: {found} files in class folders; expected at least {LEAST_FILES}")
    settings = {"source": str(source)}
    return [
        Entry(ONE, "pack", {**settings, "processes": 1}),
        Entry(TWO, "pack", {**settings, "processes": 2}),
        Entry(PIL, "pack_pil", settings),
    ]


def ratios(rows: list[Row]) -> dict[str, float]:
    """Return what the benchmark is for: ours over the loop, core for core, and two processes over one."""
    found = {"pack_vs_pil": ratio(rows, ONE, PIL), "pack_2_processes_vs_1": ratio(rows, TWO, ONE)}
    return {name: value for name, value in found.items() if value is not None}


def measure_ours(source: str, processes: int) -> dict[str, float]:
    """Return the figures of packing the folder by so many processes, on as many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processes])
    samples_per_shard = -(-sum(1 for _ in Path(source).glob("*/*")) // SHARDS)
    with tempfile.TemporaryDirectory(prefix="alexnet-benchmark-") as place:
        two = Path(place, "two", "class")
        two.mkdir(parents=True)
        for file in sorted(Path(source).glob("*/*"))[:2]:
            shutil.copy(file, two)
        start_s, start_cpu_s, few = pack(two.parent, Path(place, "few"), processes, samples_per_shard=1)
        all_s, all_cpu_s, many = pack(Path(source), Path(place, "all"), processes, samples_per_shard)
    images = many - few
    return {
        "images_per_second": images / (all_s - start_s),
        "cpu_ms_per_image": 1000 * (all_cpu_s - start_cpu_s) / images,
        "start_s": start_s,
        "whole_command_images_per_second": many / all_s,
    }


def pack(source: Path, out: Path, processes: int, samples_per_shard: int) -> tuple[float, float, int]:
    """Run the pack command; returns its wall seconds, its CPU seconds, and the images it packed."""
    words = ["-m", "alexnet_dist.pack", str(source), str(out), "--size", str(SIZE)]
    words += ["--samples-per-shard", str(samples_per_shard), "--processes", str(processes)]
    began_s, cpu_began_s = time.perf_counter(), children_s()
    done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - began_s
    return seconds, children_s() - cpu_began_s, int(json.loads(done.stdout.splitlines()[-1])["images"])


def measure_pil(source: str) -> dict[str, float]:
    """Return the figures of the loop on one core."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    import webdataset as wds

    files = sorted(Path(source).glob("*/*"))
    labels = {name: label for label, name in enumerate(sorted({file.parent.name for file in files}))}
    with tempfile.TemporaryDirectory(prefix="alexnet-benchmark-") as place:
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        with wds.TarWriter(f"{place}/train-000000.tar", encoder=True) as tar:
            for number, file in enumerate(files):
                jpeg = io.BytesIO()
                square(file).save(jpeg, "JPEG", quality=QUALITY)
                tar.write({"__key__": f"{number:08d}", "jpg": jpeg.getvalue(), "cls": labels[file.parent.name]})
        seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    return {"images_per_second": len(files) / seconds, "cpu_ms_per_image": 1000 * cpu_s / len(files)}


def square(file: Path) -> Image.Image:
    """Return a file's picture, its shorter side resized by Pillow's bicubic filter, its centre square cut out."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    scale = SIZE / min(image.size)
    width, height = (max(SIZE, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return image.crop((left, top, left + SIZE, top + SIZE))
