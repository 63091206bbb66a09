"""Packing as a contender: our pack command, with its statistics and hashes, and the usual loop over Pillow.

Ours is timed as the whole command over all images. Its start-up (the interpreter, torch, processes) is timed in the
same round by packing two images, and subtracted, since a set of a thousand images is too small to hide it. The loop is
timed from its first image: decode, resize, crop and encode by Pillow, write by WebDataset's TarWriter.
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

from alexnet_dist.benchmark.rounds import children_s

SIZE, QUALITY = 256, 90
# An even number of equal shards, so that two processes finish together also on a small set; and few of them, since each
# shard ends with writes that wait for the disk.
SHARDS = 16


def measure_ours(source: str, processes: int) -> dict[str, float]:
    """Return the figures of packing the folder `source` with `processes` processes on as many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:processes])
    files = sorted(Path(source).glob("*/*"))
    with tempfile.TemporaryDirectory(prefix="alexnet-benchmark-") as folder:
        two_images = Path(folder, "two", "class")
        two_images.mkdir(parents=True)
        for file in files[:2]:
            shutil.copy(file, two_images)
        start_s, start_cpu_s, few = run_pack(two_images.parent, Path(folder, "few"), processes, samples_per_shard=1)
        all_s, all_cpu_s, many = run_pack(Path(source), Path(folder, "all"), processes, -(-len(files) // SHARDS))
    images = many - few
    return {
        "images_per_second": images / (all_s - start_s),
        "cpu_ms_per_image": 1000 * (all_cpu_s - start_cpu_s) / images,
        "start_s": start_s,
        "whole_command_images_per_second": many / all_s,
    }


def run_pack(source: Path, out: Path, processes: int, samples_per_shard: int) -> tuple[float, float, int]:
    """Run the pack command; returns its wall seconds, its CPU seconds, and the number of images it packed."""
    command = [sys.executable, "-m", "alexnet_dist.pack", str(source), str(out), "--size", str(SIZE)]
    command += ["--samples-per-shard", str(samples_per_shard), "--processes", str(processes)]
    began_s, cpu_began_s = time.perf_counter(), children_s()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - began_s
    return seconds, children_s() - cpu_began_s, int(json.loads(done.stdout.splitlines()[-1])["images"])


def measure_pil(source: str) -> dict[str, float]:
    """Return the figures of the loop on one core."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    import webdataset as wds

    files = sorted(Path(source).glob("*/*"))
    labels = {name: label for label, name in enumerate(sorted({file.parent.name for file in files}))}
    with tempfile.TemporaryDirectory(prefix="alexnet-benchmark-") as folder:
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        with wds.TarWriter(f"{folder}/train-000000.tar", encoder=True) as tar:
            for number, file in enumerate(files):
                jpeg = io.BytesIO()
                square(file).save(jpeg, "JPEG", quality=QUALITY)
                tar.write({"__key__": f"{number:08d}", "jpg": jpeg.getvalue(), "cls": labels[file.parent.name]})
        seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    return {"images_per_second": len(files) / seconds, "cpu_ms_per_image": 1000 * cpu_s / len(files)}


def square(file: Path) -> Image.Image:
    """Return a file's image, its shorter side resized to SIZE pixels by Pillow's bicubic filter, centre-cropped."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    scale = SIZE / min(image.size)
    width, height = (max(SIZE, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return image.crop((left, top, left + SIZE, top + SIZE))
