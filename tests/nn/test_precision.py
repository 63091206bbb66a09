"""Torch's switches for exactness follow the two settings."""

from __future__ import annotations

import pytest
import torch

from alexnet_dist.nn.precision import set_precision


@pytest.mark.parametrize("wanted", [True, False])
def test_exactness_reaches_torch(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", calls.append)
    try:
        set_precision(wanted, wanted)
        assert calls == [wanted]
        assert torch.backends.cudnn.benchmark != wanted
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == wanted
    finally:
        set_precision(deterministic=False, tf32=False)
