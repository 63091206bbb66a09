"""Torch's switches for exactness follow the two settings."""

from __future__ import annotations

import subprocess
import sys

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
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == wanted
        for switches in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn):  # type: ignore[attr-defined]
            assert (switches.fp32_precision == "tf32") == wanted
        torch._C._get_cudnn_allow_tf32()  # torch.export asks so
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
