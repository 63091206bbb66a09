"""What several tests need: ranks as real processes, and a packed set of images."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from PIL import Image

from alexnet_dist.nn.precision import set_precision
from support.certificates import certificate_fixture
from support.data_shards import draw_jpegs_fixture, pack_tiny
from support.namespaces import nodes_fixture
from support.packed import reference_fixture, source_fixture
from support.ranks import Ranks, rank_runner
from support.remote_server import http_server, running_server
from support.training import undisturbed_fixture

# Fixtures of certificates, data_shards, namespaces and remote_server, and those below.
__all__ = [
    "certificate_fixture",
    "draw_jpegs_fixture",
    "http_server",
    "nodes_fixture",
    "pack_tiny",
    "reference_fixture",
    "run_ranks",
    "running_server",
    "shards",
    "source_fixture",
    "undisturbed_fixture",
]


# No deadline for one example: other processes may share the cores.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    # A shell's background jobs and nohup ignore these signals, and processes that tests start would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-s", type=float, default=5.0, help="seconds that each fuzz test takes (default: 5)")


@pytest.fixture
def fuzz_seeds(request: pytest.FixtureRequest) -> Iterator[int]:
    """Give the seeds 0, 1, ... for as long as --fuzz-s says."""
    end_s = time.monotonic() + request.config.getoption("--fuzz-s")
    return itertools.takewhile(lambda _: time.monotonic() < end_s, itertools.count())


@pytest.fixture
def exact() -> None:
    """Compute float32 in float32 on CUDA, as a run does by default; torch's default is TF32 in convolutions."""
    set_precision(deterministic=False, tf32=False)


@pytest.fixture(scope="session")
def photographs() -> list[bytes]:
    """Return a thousand photographs of ImageNet's, which lie beside the repository and never in it; or skip."""
    path = ROOT.parent / "shared" / "data" / "imagenet-sample-1000.tar"
    if not path.exists():
        pytest.skip("the sample of ImageNet's photographs is not here")
    with tarfile.open(path) as tar:
        files = [tar.extractfile(member) for member in tar if member.isfile()]
        return [file.read() for file in files if file is not None]


@pytest.fixture(scope="session")
def run_ranks() -> Ranks:
    """Return `ranks.rank_runner`'s function; one server of ready processes for the whole session."""
    return rank_runner()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a packed set of 84 training and 21 validation images of seven classes, 32 pixels a side."""
    home = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(5)
    for split, images in (("train", 12), ("val", 3)):
        for label in range(7):
            folder = home / "source" / split / f"class-{label}"
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = generator.integers(0, 120, (40, 48, 3)) + 18 * label * (np.arange(48)[:, None] > 24)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.jpg")
        arguments = [str(home / "source"), str(home / "shards"), "--split", split, "--size", "32"]
        command = [
            sys.executable,
            "-m",
            "alexnet_dist.pack",
            *arguments,
            "--samples-per-shard",
            "20",
            "--processes",
            "1",
        ]
        subprocess.run(command, check=True, capture_output=True)
    return home / "shards"
