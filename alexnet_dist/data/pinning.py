"""Memory that is not torch's own, made known to CUDA, so that the device reads it without a copy in between."""

from __future__ import annotations

from typing import Any

import torch

from alexnet_dist.errors import RunError

SUCCESS = 0


def register(memory: torch.Tensor) -> None:
    """Lock a CPU tensor's pages and register them with CUDA, which must be up in this process.

    Processes forked before share the pages, and need to know nothing of it. Raises RunError saying what CUDA says.
    """
    runtime = _runtime()
    answer = runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)
    if int(answer) != SUCCESS:
        raise RunError(
            f"CUDA cannot pin the loader's ring of {memory.nbytes / 1e6:.0f} MB: {runtime.cudaGetErrorString(answer)}."
            " Free some memory, allow the container to lock more of it, or make the ring smaller by fewer data.workers"
        )


def unregister(memory: torch.Tensor) -> None:
    """Take back what `register` did; CUDA's own answer is not asked for, as the process may be on its way out."""
    _runtime().cudaHostUnregister(memory.data_ptr())


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
