"""Counter-based random numbers; the only module that derives them from seeds.

Every random number of a run is a pure function of a key and a counter: (seed, epoch, sample) for augmentation,
(seed, step, layer, slot, unit) for dropout, (seed, parameter name) for initial weights. There is no state to save,
and no number depends on the rank, the worker or a restart.

Every value is an int64 in [0, 2**32), and a multiplier M of 2**31 or more is written as M - 2**32, so no product
overflows: NumPy, torch on a CPU and torch on CUDA give the same bits.
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
AnyKey = Key | tuple["torch.Tensor", "torch.Tensor"]

MASK = 0xFFFFFFFF
# The multipliers of lowbias32 (Chris Wellons, "Prospecting for Hash Functions"), and 2**32 / golden ratio.
MULTIPLY_1 = 0x7FEB352D
MULTIPLY_2 = 0x846CA68B - (1 << 32)
GOLDEN = 0x9E3779B1 - (1 << 32)


def seed64(*parts: int | str) -> int:
    """Return the 64-bit seed that a tuple of parts hashes to, such as ``(seed, "init", "conv1.weight")``.

    Raises TypeError if a part is not an int or str: only these have the same repr, and so the same hash, everywhere.
    """
    for part in parts:
        if type(part) not in (int, str):
            raise TypeError(f"a random key is made of int and str, got {part!r} of type {type(part).__name__}")
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def key(*parts: int | str) -> Key:
    """Return the low and high 32 bits of `seed64`, the key of a table of random bits."""
    seed = seed64(*parts)
    return seed & MASK, seed >> 32


def permutation(size: int, *parts: int | str) -> npt.NDArray[np.int64]:
    """Return the permutation of range(size) that the parts of a key select, (size,) int64."""
    return np.random.Generator(np.random.Philox(key=seed64(*parts))).permutation(size)


def _mix(values: Array) -> Array:
    values = values ^ (values >> 16)
    values = (values * MULTIPLY_1) & MASK
    values = values ^ (values >> 15)
    values = (values * MULTIPLY_2) & MASK
    return values ^ (values >> 16)


def _mix_in_place(values: Array) -> Array:
    values ^= values >> 16
    values *= MULTIPLY_1
    values &= MASK
    values ^= values >> 15
    values *= MULTIPLY_2
    values &= MASK
    values ^= values >> 16
    return values


def bits(table_key: AnyKey, rows: Array, columns: Array) -> Array:
    """Return 32 random bits for each (row, column) of a table, int64 in [0, 2**32).

    table_key: numbers, or for tensors also int64 tensors () on their device. rows: (B,) int64 in [0, 2**32); columns:
    (U,) int64 in [0, 2**32); result: (B, U).
    The table is mixed twice: one round leaves neighbouring rows correlated (2.5 sigma over 487,680 row pairs).
    """
    row_hashes = _mix(_mix(rows ^ table_key[0]) ^ table_key[1])[:, None]
    column_hashes = _mix((((columns * GOLDEN) + table_key[1]) & MASK) ^ table_key[0])[None, :]
    values = (row_hashes + column_hashes) & MASK
    _mix_in_place(values)
    values += row_hashes
    values &= MASK
    return _mix_in_place(values)


def keep(table_key: AnyKey, rows: torch.Tensor, columns: torch.Tensor, drop_rate: float) -> torch.Tensor:
    """Return a (B, U) bool table, True with probability 1 - drop_rate; rows (B,) and columns (U,) int64."""
    return bits(table_key, rows, columns) >= int(drop_rate * 2**32)


def uniform(table_key: Key, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float64]:
    """Return a (B, width) table of float64 numbers in the open interval (0, 1); rows (B,) int64."""
    table = bits(table_key, rows, np.arange(width, dtype=np.int64)).astype(np.float64)
    return (table + 0.5) / 2.0**32
