"""Ten gigabytes of shards over HTTP through the smallest allowed cache, in constant memory and disk space (slow).

    python -m pytest -m slow tests/data/test_remote_streaming.py -s

prints the figures. The server generates the shards as it serves them: one packed shard followed by a member unique to
each shard, so that every shard has a different hash.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_dist.data import manifest
from alexnet_dist.data.loader import BatchRequest, Loader
from alexnet_dist.data.manifest import Class, Colour, Manifest, Options, Shard
from alexnet_dist.data.plan import EpochPlan
from alexnet_dist.data.prefetcher import needed_bytes
from alexnet_dist.data.reader import Split
from alexnet_dist.data.remote import Remote, locate
from support.data_shards import draw_jpegs, write_array, write_tar
from support.remote_sets import cache_bytes

TOTAL_BYTES = 10_000_000_000
SAMPLES = 1000  # per shard
BATCH, LANES, WINDOW, WORKERS = 128, 4, 1024, 2
MAX_GROWTH_BYTES = 32 << 20


def trailer(number: int) -> bytes:
    """Return the last member of a shard and the end of its archive."""
    member = tarfile.TarInfo(f"{number:08d}.shard")
    return member.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)


def write_set(home: Path) -> None:
    """Write the shard that all others are generated from, and the manifest of TOTAL_BYTES of shards."""
    jpegs = draw_jpegs(SAMPLES, 256)
    labels = [position % 5 for position in range(SAMPLES)]
    offsets = write_tar(home / "base.tar", 0, jpegs, labels)
    with tarfile.open(home / "base.tar") as tar:
        last = tar.getmembers()[-1]
    base = (home / "base.tar").read_bytes()[: last.offset_data + 512]
    (home / "base.tar").write_bytes(base)
    size_bytes = len(base) + len(trailer(0))
    base_hash, shards = hashlib.sha256(base), []
    for number in range(-(-TOTAL_BYTES // size_bytes)):
        shard_hash = base_hash.copy()
        shard_hash.update(trailer(number))
        shards.append(Shard(f"train-{number:06d}.tar", SAMPLES, size_bytes, shard_hash.hexdigest()))
    rows = [(o, len(j), k, zlib.crc32(j)) for o, j, k in zip(offsets, jpegs, labels, strict=True)]
    index = np.tile(np.array(rows, dtype=manifest.INDEX_DTYPE), len(shards))
    train = Manifest(
        split="train", size=256, images=len(index), classes=tuple(Class(f"class{label}") for label in range(5)),
        shards=tuple(shards), index=write_array(home, "train.index.npy", index),
        mean=write_array(home, "train.mean.npy", np.zeros((3, 256, 256), np.float32)),
        colour=Colour((0.0, 0.0, 0.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))), rejected=(),
        options=Options(seed=0, size=256, quality=90, chroma="420", filter="bicubic", samples_per_shard=SAMPLES,
        holdout=None),
        libraries={},
    )  # fmt: skip
    manifest.save(train, manifest.manifest_path(home, "train"))


def serve(home: Path) -> None:
    """Serve the set until killed."""
    base = (home / "base.tar").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            parts = [base, trailer(int(name[6:12]))] if name.endswith(".tar") else [(home / name).read_bytes()]
            self.send_response(200)
            self.send_header("Content-Length", str(sum(map(len, parts))))
            self.end_headers()
            for part in parts:
                self.wfile.write(part)
            with (home / "gets").open("a") as file:
                file.write(f"{name}\n")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        print(listening.server_port, flush=True)
        listening.serve_forever()


def rank(url: str, cache: Path) -> None:
    """Load one epoch like a rank, with a cache of just the needed size; print that size, the pids and the speed."""
    unlimited = locate(url, str(cache), 1 << 40)
    assert isinstance(unlimited, Remote)
    split = Split.open(unlimited, "train")
    limit_bytes = needed_bytes(split, LANES, WINDOW, None, 1)
    limited = Remote(unlimited.url, replace(unlimited.cache, max_bytes=limit_bytes), unlimited.retry_policy)
    split = Split.open(limited, "train")
    plan = EpochPlan(split.counts, seed=0, epoch=0, global_batch=BATCH, lanes=LANES, window=WINDOW)
    with Loader(
        {"train": split}, seed=0, crop=224, rows=BATCH, workers=WORKERS, max_bad_fraction=0.0, ahead_bytes=limit_bytes
    ) as loader:
        print(json.dumps([limit_bytes, os.getpid(), *(p.pid for p in multiprocessing.active_children())]), flush=True)
        start_s, images = time.monotonic(), 0
        for batch in loader.run(
            BatchRequest("train", 0, plan.sample_ids(k, 0, BATCH), True) for k in range(plan.batches)
        ):
            images += len(batch.rows)
        print(json.dumps([images, time.monotonic() - start_s]), flush=True)


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    # A script finds modules only in its own folder; pytest's path finds those beside the tests.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclass
class PeakUsage:
    """The peak memory of each process, in the first tenth of the stream and later, and the peak size of the cache.

    A process's memory is its anonymous and file pages, without the shared ring, which has a fixed size.
    """

    early: dict[int, int]
    late: dict[int, int]
    cache_bytes: int = 0

    def update(self, pids: list[int], cache: Path, early: bool) -> None:
        for pid in pids:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            resident = sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssFile:")))
            peaks = self.early if early else self.late
            peaks[pid] = max(peaks.get(pid, 0), resident)
        self.cache_bytes = max(self.cache_bytes, cache_bytes(cache))


def read_json(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ten_gigabytes_stream_in_constant_memory(tmp_path: Path) -> None:
    write_set(tmp_path)
    gets = tmp_path / "gets"
    gets.touch()
    shards = len(json.loads((tmp_path / "train.manifest.json").read_text())["shards"])
    with running("serve", str(tmp_path)) as server:
        with running("rank", f"http://127.0.0.1:{read_json(server)}", str(tmp_path / "cache")) as loading:
            limit_bytes, *pids = read_json(loading)
            peak, downloads = PeakUsage({}, {}), 0
            assert len(pids) == 1 + WORKERS + 1
            while downloads < shards:
                downloads = gets.read_text().count(".tar\n")
                peak.update(pids, tmp_path / "cache", early=downloads < shards / 10)
                time.sleep(0.05)
            images, seconds = read_json(loading)
        downloads = gets.read_text().count(".tar\n")
    print(
        f"\n{TOTAL_BYTES / 1e9:g} GB in {shards} shards, {downloads} downloads, {images:,} images in {seconds:.0f} s:"
        f" {images / seconds:,.0f} images/s, {TOTAL_BYTES / seconds / 1e6:.0f} MB/s; cache at most"
        f" {peak.cache_bytes / 1e6:.0f} of {limit_bytes / 1e6:.0f} MB; memory of rank, prefetcher"
        " and workers, in the first tenth and later, in MB: "
        + ", ".join(f"{peak.early[pid] / 1e6:.0f} {peak.late[pid] / 1e6:.0f}" for pid in pids)
    )
    assert images == shards * SAMPLES // BATCH * BATCH
    assert peak.cache_bytes <= limit_bytes
    assert downloads <= 1.2 * shards
    for pid in pids:
        assert peak.late[pid] <= peak.early[pid] + MAX_GROWTH_BYTES


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]))
    else:
        rank(sys.argv[2], Path(sys.argv[3]))
