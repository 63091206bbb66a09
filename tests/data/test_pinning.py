"""The ring is registered with CUDA once, a failure is reported, and it is unregistered at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_dist.data.loader import BatchRequest, Loader
from alexnet_dist.data.reader import Split
from alexnet_dist.errors import RunError

Pack = Callable[..., Path]
OUT_OF_MEMORY = 2


class Runtime:
    """A fake of the CUDA runtime functions that are called: it records the calls, and returns the given status."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.calls: list[tuple[str, int, int]] = []

    def cudaHostRegister(self, address: int, size_bytes: int, flags: int) -> int:  # noqa: N802
        assert flags == 0
        self.calls.append(("register", address, size_bytes))
        return self.status

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        self.calls.append(("unregister", address, 0))
        return 0

    def cudaGetErrorString(self, status: int) -> str:  # noqa: N802
        return f"out of memory ({status})"


def open_loader(shards: Path) -> Loader:
    return Loader({"train": Split.open(shards, "train")}, seed=5, crop=14, rows=6, workers=1, max_bad_fraction=0.1)


def test_the_whole_ring_is_registered_once_and_taken_back_once(
    pack_tiny: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(status=0)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    with open_loader(pack_tiny()) as loader:
        assert runtime.calls == []
        loader.pin()
        assert runtime.calls == [("register", loader.ring.data_ptr(), loader.ring.numel())]
        with pytest.raises(RuntimeError, match="called only once"):
            loader.pin()
        (batch,) = loader.run([BatchRequest("train", 0, np.arange(6), random_crop=True)])
        assert batch.rows.data_ptr() >= loader.ring.data_ptr()
    loader.close()
    assert [name for name, _, _ in runtime.calls] == ["register", "unregister"]
    assert runtime.calls[1][1] == loader.ring.data_ptr()


def test_an_error_ends_the_run_with_cudas_message(pack_tiny: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(status=OUT_OF_MEMORY)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    with (
        open_loader(pack_tiny()) as loader,
        pytest.raises(RunError, match=r"pin the loader's ring .* out of memory \(2\).* fewer data\.workers"),
    ):
        loader.pin()
    assert [name for name, _, _ in runtime.calls] == ["register"]


def test_a_loader_that_was_not_pinned_asks_cuda_for_nothing(pack_tiny: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "cudart", lambda: pytest.fail("CUDA was called"))
    with open_loader(pack_tiny()):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_rows_of_the_pinned_ring_reach_the_device(pack_tiny: Pack) -> None:
    with open_loader(pack_tiny()) as loader:
        torch.zeros(1, device="cuda")
        assert not loader.ring.is_pinned()
        loader.pin()
        assert loader.ring.is_pinned()
        (batch,) = loader.run([BatchRequest("train", 0, np.arange(6), random_crop=True)])
        assert torch.equal(batch.rows.to("cuda", non_blocking=True).cpu(), batch.rows)
    assert not loader.ring.is_pinned()
