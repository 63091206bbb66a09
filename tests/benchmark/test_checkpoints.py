"""The contenders of ``checkpoint`` on a narrow net: what they save, and what their figures say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from alexnet_dist.benchmark.contenders import checkpoints, plain_nets
from alexnet_dist.benchmark.rounds import Result
from alexnet_dist.benchmark.suites import checkpoint
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.nn.geometry import parameter_count
from alexnet_dist.runs import checkpoint as files
from alexnet_dist.system import resources
from alexnet_dist.training import saver
from alexnet_dist.training.saver import Saved


@pytest.fixture(autouse=True)
def _unchanged_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process of the tests as it was: its threads, its allocator."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(resources, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(saver, "BACKGROUND_BYTES", 0)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", ["copy", "torch", "ours"])
def test_a_contender_saves_the_whole_net(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, int] = {}
    time_save = checkpoints.time_save

    def look(*arguments: object) -> tuple[float, float | None]:
        times = time_save(*arguments)  # type: ignore[arg-type]
        kept.update({path.name: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()})
        return times

    monkeypatch.setattr(checkpoints, "time_save", look)
    figures = checkpoints.measure(kind, repeats=2, threads=1, folder=str(tmp_path), width_divisor=16)
    if kind == "copy":
        assert list(figures) == ["stall_ms"]
        assert kept == {}
        return
    assert 0 < figures["stall_ms"] <= figures["durable_ms"]
    if kind == "ours":
        assert figures["stall_ms"] < figures["durable_ms"]
    written = kept.get("checkpoint.pt") or sum(kept[files.tower_file(tower)] for tower in range(2))
    size_bytes = 2 * 4 * parameter_count(plain_nets.geometry(16))  # of weights and velocities
    assert size_bytes <= written < 1.05 * size_bytes


def test_a_save_that_fails_is_no_figure() -> None:
    with pytest.raises(RunError, match=r"was not written: .*No space"):
        checkpoints.check(Saved(3, error="No space left on device"))


def test_ratios_and_a_folder_that_is_missing(tmp_path: Path) -> None:
    names = [contender.name for contender in checkpoint.contenders(tmp_path, 4, 2)]
    figures = [{"stall_ms": 100.0}, {"stall_ms": 800.0, "durable_ms": 800.0}, {"stall_ms": 120.0, "durable_ms": 1000.0}]
    results = [Result(name, (figure,) * 5) for name, figure in zip(names, figures, strict=True)]
    assert checkpoint.ratios(results) == {
        "stall_vs_copy": 1.2,
        "stall_vs_torch_save": 0.15,
        "durable_vs_torch_save": 1.25,
    }
    with pytest.raises(UserError, match=r"--folder: .*gone: no such folder; expected"):
        checkpoint.contenders(tmp_path / "gone", 4, 2)
