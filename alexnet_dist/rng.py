"""Addressed randomness: the only place where seeds are mixed.

Every random number of a run is a pure function of an address: (seed, epoch, sample) for augmentation,
(seed, step, layer, slot, unit) for dropout, (seed, parameter name) for initial weights. There is no state to
save, and nothing depends on which rank, worker or restart asks.

The arithmetic keeps every value in [0, 2**32) inside int64, and takes multipliers of 2**31 and more as
M - 2**32, so that no product overflows: NumPy, torch on a CPU and torch on CUDA give the same bits.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", npt.NDArray[np.int64], "torch.Tensor")
Key = tuple[int, int]

MASK = 0xFFFFFFFF
# The multipliers of lowbias32 (Chris Wellons, "Prospecting for Hash Functions") and 2**32 / golden ratio.
MULTIPLY_1 = 0x7FEB352D
MULTIPLY_2 = 0x846CA68B - (1 << 32)
GOLDEN = 0x9E3779B1 - (1 << 32)


def seed64(*address: int | str) -> int:
    """Return the 64-bit number of an address, such as ``(seed, "init", "conv1.weight")``.

    Raises TypeError for anything but int and str: their text, and so the number, is the same everywhere.
    """
    for part in address:
        if type(part) not in (int, str):
            raise TypeError(f"an address is made of int and str, got {part!r} of type {type(part).__name__}")
    return int.from_bytes(hashlib.blake2b(repr(address).encode(), digest_size=8).digest(), "little")


def key(*address: int | str) -> Key:
    """Return the two 32-bit words that key a table of random bits."""
    word = seed64(*address)
    return word & MASK, word >> 32


def permutation(size: int, *address: int | str) -> npt.NDArray[np.int64]:
    """Return the permutation of range(size) that belongs to an address."""
    return np.random.Generator(np.random.Philox(key=seed64(*address))).permutation(size)


def _mix(words: Array) -> Array:
    words = words ^ (words >> 16)
    words = (words * MULTIPLY_1) & MASK
    words = words ^ (words >> 15)
    words = (words * MULTIPLY_2) & MASK
    return words ^ (words >> 16)


def _mix_in_place(words: Array) -> Array:
    words ^= words >> 16
    words *= MULTIPLY_1
    words &= MASK
    words ^= words >> 15
    words *= MULTIPLY_2
    words &= MASK
    words ^= words >> 16
    return words


def bits(at: Key, rows: Array, columns: Array) -> Array:
    """Return 32 random bits for each (row, column) address, int64 in [0, 2**32).

    rows: (B,) int64 in [0, 2**32); columns: (U,) int64 in [0, 2**32); result: (B, U).
    Two rounds over the table: one leaves neighbouring rows slightly alike (2.5 sigma over 487,680 row pairs).
    """
    row_words = _mix(_mix(rows ^ at[0]) ^ at[1])[:, None]
    column_words = _mix((((columns * GOLDEN) + at[1]) & MASK) ^ at[0])[None, :]
    words = (row_words + column_words) & MASK
    _mix_in_place(words)
    words += row_words
    words &= MASK
    return _mix_in_place(words)


def keep(at: Key, rows: torch.Tensor, columns: torch.Tensor, drop_rate: float) -> torch.Tensor:
    """Return a (B, U) bool table, True with probability 1 - drop_rate; rows (B,) and columns (U,) int64."""
    return bits(at, rows, columns) >= int(drop_rate * 2**32)


def uniform(at: Key, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float64]:
    """Return a (B, width) table of float64 numbers in the open interval (0, 1)."""
    table = bits(at, rows, np.arange(width, dtype=np.int64)).astype(np.float64)
    return (table + 0.5) / 2.0**32
