"""torch.compile, for functions of a few elementwise operations: a net of them is not compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch

from alexnet_dist.nn import precision

P = ParamSpec("P")
R = TypeVar("R")

# Of one function: one for each shape, memory format and mode (training, evaluation). Beyond it torch gives up and runs
# the function uncompiled; its default of 8 is less than a net with two norms and an incomplete last batch needs.
MOST_COMPILATIONS = 64


@cache
def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Return a compiled function; each shape of its tensors is compiled at its first call, which takes seconds."""
    precision.pass_to_compiler()
    import torch._dynamo  # 2 s, which no other run should wait for

    torch._dynamo.config.recompile_limit = MOST_COMPILATIONS
    return torch.compile(function, dynamic=False)


def compile_problem(device: torch.device) -> str | None:
    """Return the first line of the error if torch.compile does not work for a device here, otherwise None."""
    try:
        compiled(_twice)(torch.zeros(1, device=device))
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return None


def _twice(values: torch.Tensor) -> torch.Tensor:
    return values * 2
