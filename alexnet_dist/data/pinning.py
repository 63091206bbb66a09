"""Register memory that torch did not allocate with CUDA, so that the device reads it without an extra copy."""

from __future__ import annotations

from typing import Any

import torch

from alexnet_dist.errors import RunError

CUDA_SUCCESS = 0


def register(memory: torch.Tensor) -> None:
    """Lock a CPU tensor's pages and register them with CUDA, which must be initialized in this process.

    Processes forked earlier share the pages and need no change. Raises RunError with CUDA's message.
    """
    runtime = _runtime()
    status = runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)
    if int(status) != CUDA_SUCCESS:
        raise RunError(
            f"CUDA cannot pin the loader's ring of {memory.nbytes / 1e6:.0f} MB: {runtime.cudaGetErrorString(status)}."
            " Free some memory, allow the container to lock more memory, or use a smaller ring with fewer data.workers"
        )


def unregister(memory: torch.Tensor) -> None:
    """Undo `register`; CUDA's status is ignored, as the process may be exiting."""
    _runtime().cudaHostUnregister(memory.data_ptr())


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
