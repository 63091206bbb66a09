"""The one module that sets torch's switches for exactness, of the whole process."""

from __future__ import annotations

import torch


def set_precision(deterministic: bool, tf32: bool) -> None:
    """Choose reproducible operations or the fastest ones, and whether float32 products may use TF32.

    Everything that computes calls it first: by default torch uses TF32 in convolutions of float32.
    deterministic: torch raises RuntimeError on an operation that is not reproducible.
    """
    # Not use_deterministic_algorithms: it imports torch's compiler, which takes each process about 2 s.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.backends.cudnn.benchmark = not deterministic
    # Not the newer fp32_precision: once it is "ieee", torch.export and others that read allow_tf32 raise (torch 2.13).
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def pass_to_compiler() -> None:
    """Make torch.compile, which has a switch of its own, follow the choice of reproducible operations."""
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
