"""A run on remote shards is the run on local ones, also through faults and a restart; too small a cache is refused."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from alexnet_dist.evaluate import main as evaluate
from support.remote_server import HttpServer
from support.training import FOUR, ONE, losses, samples, settings, train_here, train_refused, weights

TWO = ONE | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
# Shards of the session's set have 20 images; a lane's window of 4 has a fifth of one.
SMALL = ("data.window=4", "data.lanes=1")


def shard_bytes(shards: Path, split: str) -> list[int]:
    manifest = json.loads((shards / f"{split}.manifest.json").read_text())
    return [shard["size_bytes"] for shard in manifest["shards"]]


def needed(shards: Path) -> int:
    """Return the bytes that one lane with a window of 4 of 84 images, and two ranks that validate, need."""
    train, val = shard_bytes(shards, "train"), shard_bytes(shards, "val")
    return -(-4 * sum(train) // 84) + 2 * max(train) + min(sum(val), 4 * max(val))


def train_and_tell(files: list[Path], words: list[str]) -> str:
    """Train in this rank and return what it says."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        train_here(files, words)
    return said.getvalue()


def test_a_remote_run_equals_a_local_one_and_resumes(
    shards: Path, http_server: HttpServer, tmp_path: Path, run_ranks: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    http_server.fail({
        shards / "train.manifest.json": ["500"], shards / "train.index.npy": ["truncated"],
        shards / "train-000001.tar": ["wrong"], shards / "val-000000.tar": ["shorter"],
    })  # fmt: skip
    cache = [f"data.cache={tmp_path / 'cache'}", f"data.cache_bytes={needed(shards)}", *SMALL]
    local = settings(shards, tmp_path / "local", "run.steps=16", *SMALL)
    run_ranks(2, train_here, [Path(local[1])], local[2:])
    said = ""
    for steps in (7, 16):
        words = settings(shards, tmp_path / "remote", f"run.steps={steps}", *cache)
        words[2] = f"data.root={http_server.url(shards)}"
        said += run_ranks(2, train_and_tell, [Path(words[1])], words[2:])[0]
    assert f"remote shards: 1 lanes of {http_server.url(shards)} need {needed(shards) / 1e9:.3g} GB" in said
    assert said.index("remote shards:") < said.index("step 1/")
    assert losses(tmp_path / "remote") == losses(tmp_path / "local")
    assert samples(tmp_path / "remote") == samples(tmp_path / "local")
    assert weights(tmp_path / "remote", 16) == weights(tmp_path / "local", 16)
    for name in ("train.manifest.json", "train.mean.npy"):
        assert (tmp_path / "remote" / name).read_bytes() == (shards / name).read_bytes()
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= needed(shards)

    capfd.readouterr()
    evaluate([str(tmp_path / "local"), "--data", str(shards), "--json"])
    wanted = capfd.readouterr().out.replace(str(tmp_path / "local"), str(tmp_path / "remote"))
    evaluate([str(tmp_path / "remote"), "--json"])
    assert capfd.readouterr().out == wanted


@pytest.mark.parametrize(
    ("environment", "lanes"),
    [(TWO, 3), (FOUR, 3), (FOUR | {"LOCAL_WORLD_SIZE": "2"}, 1)],
    ids=["one node of 2", "one node of 4", "two nodes of 2"],
)
def test_a_cache_below_what_the_node_needs_is_refused(
    environment: dict[str, str], lanes: int, shards: Path, http_server: HttpServer, tmp_path: Path, run_ranks: Any
) -> None:
    train, val = shard_bytes(shards, "train"), shard_bytes(shards, "val")
    ranks = int(environment["LOCAL_WORLD_SIZE"])
    train_bytes = min(sum(train), lanes * (-(-4 * sum(train) // 84) + 2 * max(train)))
    wanted = train_bytes + min(sum(val), 2 * ranks * max(val))
    words = settings(shards, tmp_path / "run", "data.window=4", f"data.cache={tmp_path / 'cache'}")
    words[2] = f"data.root={http_server.url(shards)}"
    ((code, said),) = run_ranks(1, train_refused, [*words, f"data.cache_bytes={wanted - 1}"], environment)
    assert code == 2, said
    assert f"data.cache_bytes: {wanted - 1:,} is less than the {wanted:,} bytes" in said
    assert f"{lanes} lanes x (data.window = 4 samples + 2 shards); raise it, or lower data.window or data.lanes" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("root", ["pipe:curl http://host/train.tar"])
def test_a_scheme_that_is_not_read_is_refused(root: str, tmp_path: Path, run_ranks: Any) -> None:
    words = settings(Path("unused"), tmp_path / "run")
    words[2] = f"data.root={root}"
    ((code, said),) = run_ranks(1, train_refused, words, TWO)
    assert code == 2, said
    assert f"data.root: {root}: scheme" in said
    assert not (tmp_path / "run").exists()
