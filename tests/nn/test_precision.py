"""Torch's switches for exactness follow the two settings."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from alexnet_dist.nn.precision import pass_to_compiler, set_precision


@pytest.mark.parametrize("wanted", [True, False])
def test_exactness_reaches_torch(wanted: bool) -> None:
    try:
        set_precision(wanted, wanted)
        assert torch.are_deterministic_algorithms_enabled() == wanted
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.benchmark != wanted
        cudnn: Any = torch.backends.cudnn
        for switches in (torch.backends.cuda.matmul, cudnn, cudnn.conv, cudnn.rnn):
            assert switches.fp32_precision == ("tf32" if wanted else "ieee")
        pass_to_compiler()
        assert vars(torch._inductor)["config"].deterministic == wanted
        assert torch.are_deterministic_algorithms_enabled() == wanted
    finally:
        set_precision(deterministic=False, tf32=False)
        pass_to_compiler()


def test_a_rank_starts_without_the_compiler() -> None:
    code = (
        "import sys\n"
        "from alexnet_dist.training import train\n"
        "from alexnet_dist.nn.precision import set_precision\n"
        "set_precision(deterministic=True, tf32=False)\n"
        "print(sorted({'torch._dynamo', 'torch._inductor', 'sympy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
