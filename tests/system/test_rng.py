"""Counter-based random numbers: NumPy, torch and plain integers give the same, pinned bits."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.system import rng

UINT32 = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
KEY_PARTS = st.lists(st.integers(-9, 99) | st.text("a1 ,'", max_size=2), max_size=3)
UINT32_LISTS = st.lists(UINT32, min_size=1, max_size=5)


def lowbias32(value: int) -> int:
    """Return Wellons's hash, computed with Python integers, which cannot overflow."""
    value ^= value >> 16
    value = value * 0x7FEB352D % 2**32
    value ^= value >> 15
    value = value * 0x846CA68B % 2**32
    return value ^ value >> 16


def plain_bits(key: tuple[int, int], row: int, column: int) -> int:
    row_hash = lowbias32(lowbias32(row ^ key[0]) ^ key[1])
    column_hash = lowbias32((column * 0x9E3779B1 + key[1]) % 2**32 ^ key[0])
    return lowbias32((lowbias32((row_hash + column_hash) % 2**32) + row_hash) % 2**32)


@given(key=st.tuples(UINT32, UINT32), rows=UINT32_LISTS, columns=UINT32_LISTS)
def test_numpy_torch_and_plain_integers_agree(key: tuple[int, int], rows: list[int], columns: list[int]) -> None:
    expected = [[plain_bits(key, row, column) for column in columns] for row in rows]
    result = rng.bits(key, np.array(rows, np.int64), np.array(columns, np.int64))
    assert result.dtype == np.int64
    assert result.tolist() == expected
    assert rng.bits(key, torch.tensor(rows), torch.tensor(columns)).tolist() == expected


def test_the_hash_is_the_published_one() -> None:
    # lowbias32 maps 0 to 0 and is a bijection: no two inputs have the same hash.
    assert lowbias32(0) == 0
    assert len({lowbias32(value) for value in range(1000)}) == 1000
    result = rng.bits((0, 0), np.zeros(1, np.int64), np.arange(3))
    assert result.tolist() == [[0, plain_bits((0, 0), 0, 1), plain_bits((0, 0), 0, 2)]]


def test_the_streams_of_today_are_those_of_tomorrow() -> None:
    """Golden values: if they change, so do every run's crops, dropout masks, sample order and initial weights."""
    assert rng.seed64(0, "init", "tower0.conv1.weight") == 15383947929374125807
    assert rng.key(1, "dropout", 2, "fc6") == (999092961, 692251754)
    rows, columns = np.array([0, 5]), np.array([0, 1, 4095])
    assert rng.bits((123, 456), rows, columns).tolist() == [
        [2983073472, 1961403284, 816430218],
        [1411198368, 3113057457, 448431181],
    ]
    assert rng.permutation(10, 7, 0, "shards").tolist() == [7, 1, 0, 3, 4, 9, 8, 2, 6, 5]
    assert rng.uniform((1, 2), np.array([3]), 2).tolist() == [[0.07495879929047078, 0.9035949405515566]]


def test_a_key_is_the_hash_of_its_parts() -> None:
    digest = hashlib.blake2b(b"(3, 'init', 'tower0.fc6.own.weight')", digest_size=8).digest()
    assert rng.seed64(3, "init", "tower0.fc6.own.weight") == int.from_bytes(digest, "little")
    low, high = rng.key(3, "init")
    assert low + (high << 32) == rng.seed64(3, "init")


@given(left=KEY_PARTS, right=KEY_PARTS)
def test_different_keys_have_different_numbers(left: list[int | str], right: list[int | str]) -> None:
    assert (rng.seed64(*left) == rng.seed64(*right)) == (left == right)


@pytest.mark.parametrize("part", [True, 1.0, None, np.int64(1), b"x"])
def test_only_int_and_str_are_key_parts(part: object) -> None:
    with pytest.raises(TypeError, match="a random key is made of int and str, got"):
        rng.seed64(0, part)  # type: ignore[arg-type]


@given(first=st.integers(0, 6), end=st.integers(7, 12), left=st.integers(0, 4), right=st.integers(5, 9))
def test_a_part_of_a_table_is_the_table_of_the_part(first: int, end: int, left: int, right: int) -> None:
    rows, columns = torch.arange(12), torch.arange(9)
    whole = rng.bits((1, 2), rows, columns)
    assert rng.bits((1, 2), rows[first:end], columns[left:right]).equal(whole[first:end, left:right])


def test_bits_leaves_its_arguments_unchanged() -> None:
    rows, columns = np.arange(4), np.arange(6)
    rng.bits((1, 2), rows, columns)
    assert rows.tolist() == [0, 1, 2, 3]
    assert columns.tolist() == [0, 1, 2, 3, 4, 5]


@given(size=st.integers(0, 40), seed=st.integers(0, 5))
def test_a_permutation_has_every_number_once(size: int, seed: int) -> None:
    result = rng.permutation(size, seed, "x")
    assert sorted(result.tolist()) == list(range(size))
    assert (result == rng.permutation(size, seed, "x")).all()


def test_permutations_differ_by_key() -> None:
    orders = {tuple(rng.permutation(50, seed, epoch, "shards")) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@pytest.mark.parametrize("drop_rate", [0.1, 0.5, 0.9])
def test_units_are_dropped_at_the_rate(drop_rate: float) -> None:
    rows, columns = torch.arange(128), torch.arange(4096)
    kept = rng.keep(rng.key(0, "dropout", 0, "fc6"), rows, columns, drop_rate).double()
    # Standard deviations of the mean: over all units (4), over each column and over each row (5).
    sigma = math.sqrt(drop_rate * (1 - drop_rate))
    assert abs(kept.mean() - (1 - drop_rate)) < 4 * sigma / math.sqrt(kept.numel())
    assert abs(kept.mean(0) - (1 - drop_rate)).max() < 5 * sigma / math.sqrt(128)
    assert abs(kept.mean(1) - (1 - drop_rate)).max() < 5 * sigma / math.sqrt(4096)


def test_neighbours_are_uncorrelated() -> None:
    kept = rng.keep(rng.key(0, "dropout", 0, "fc6"), torch.arange(512), torch.arange(2048), 0.5).double()
    for left, right in ((kept[:-1], kept[1:]), (kept[:, :-1], kept[:, 1:]), (kept[:256], kept[256:])):
        agreement = (left == right).double().mean()
        assert abs(agreement - 0.5) < 4 * 0.5 / math.sqrt(left.numel())


def test_the_ends_of_the_drop_rate() -> None:
    rows, columns = torch.arange(64), torch.arange(512)
    assert rng.keep((1, 2), rows, columns, 0.0).all()
    assert not rng.keep((1, 2), rows, columns, 1.0).any()


def test_uniform_numbers_lie_inside_the_interval() -> None:
    result = rng.uniform(rng.key("u"), np.arange(20_000), 5)
    assert result.shape == (20_000, 5)
    assert 0 < result.min() < 1e-3
    assert 1 - 1e-3 < result.max() < 1
    assert abs(result.mean() - 0.5) < 4 / math.sqrt(12 * result.size)
    assert abs(result.var() - 1 / 12) < 1e-3
    assert np.abs(np.corrcoef(result.T) - np.eye(5)).max() < 5 / math.sqrt(20_000)


def test_uniform_is_never_0_or_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, inside in ((0, 2.0**-33), (2**32 - 1, 1 - 2.0**-33)):
        monkeypatch.setattr(rng, "bits", lambda *_, value=value: np.full((1, 1), value))
        assert rng.uniform((0, 0), np.zeros(1, np.int64), 1).tolist() == [[inside]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_bits() -> None:
    rows, columns = torch.arange(64) * 67_108_859, torch.arange(4096)
    expected = rng.bits((2**32 - 1, 2**31), rows, columns)
    assert rng.bits((2**32 - 1, 2**31), rows.cuda(), columns.cuda()).cpu().equal(expected)
