"""The prediction model: the properties that hold for any numbers, and the shares of the paper's net."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_dist.benchmark.suites import prediction
from alexnet_dist.benchmark.suites.prediction import Cluster, Parts, bounds, ring_s
from alexnet_dist.nn.geometry import Geometry
from support.nets import SMALL

TIMES, SPEEDS = st.floats(0, 10), st.floats(1e3, 1e12)
ANY = st.builds(Parts, TIMES, TIMES, st.integers(1, 512), st.integers(1, 1 << 32), SPEEDS, st.floats(0, 1))


@given(ANY)
def test_the_lower_bound_is_below_the_upper(parts: Parts) -> None:
    step = bounds(parts)
    assert parts.compute_s <= step.best_s <= step.worst_s


@given(ANY, st.floats(1, 1000))
def test_a_faster_network_is_never_slower(parts: Parts, factor: float) -> None:
    slow, fast = bounds(parts), bounds(replace(parts, bytes_per_s=parts.bytes_per_s * factor))
    assert fast.best_s <= slow.best_s
    assert fast.worst_s <= slow.worst_s


@given(ANY)
def test_one_replica_sums_nothing(parts: Parts) -> None:
    step = bounds(replace(parts, replicas=1))
    assert step.best_s == parts.compute_s
    assert step.worst_s == parts.compute_s + parts.link_s


def test_a_ring_moves_nearly_twice_the_bytes() -> None:
    assert ring_s(2, 1000, 1000) == 1
    assert ring_s(4, 1000, 1000) == 1.5


def test_what_hides_is_taken_off() -> None:
    parts = Parts(compute_s=1, link_s=0.25, replicas=2, gradient_bytes=1000, bytes_per_s=2000, hidden_share=0.25)
    assert bounds(parts) == prediction.Bounds(1 + 0.5 - 0.25, 1 + 0.25 + 0.5)


def test_shares_of_the_papers_net() -> None:
    # Multiply-adds by hand, in millions: conv1 105.4 and conv2 223.9 of 724.4; backward twice, the first layer once.
    assert prediction.hiding_share_of_backward(Geometry()) == pytest.approx(
        (105.4 + 2 * 223.9) / (2 * 724.4 - 105.4), 1e-3
    )
    assert prediction.hiding_share_of_backward(Geometry()) == pytest.approx(0.41, abs=0.005)
    assert prediction.hiding_share_of_step(Geometry()) == pytest.approx(0.27, abs=0.005)
    assert 0 < prediction.hiding_share_of_step(SMALL) < prediction.hiding_share_of_backward(SMALL) < 1


CLUSTERS = st.builds(
    Cluster, st.floats(1e-3, 1), st.integers(1, 1024), st.floats(1, 1000), st.floats(1, 1000),
    st.integers(1, 1 << 28), st.integers(1, 1 << 28), st.floats(0, 1),
)  # fmt: skip


@given(CLUSTERS, st.integers(1, 64))
def test_nodes_are_bounded_by_perfect_scaling(cluster: Cluster, nodes: int) -> None:
    lower, upper = cluster.images_per_second(nodes)
    perfect = nodes * cluster.pairs_per_node * cluster.pair_batch / cluster.step_s
    assert 0 < lower <= upper <= perfect * (1 + 1e-12)
    faster = replace(cluster, network_gigabits=2 * cluster.network_gigabits).images_per_second(nodes)
    assert faster[0] >= lower
    assert faster[1] >= upper


def test_two_rings_share_a_nodes_network() -> None:
    cluster = Cluster(0.01, 128, 100, 50, 10**7, 10**8, 0.25)
    assert cluster.parts(1).bytes_per_s == 50e9
    assert cluster.parts(2).bytes_per_s == 100e9 / 16
    assert (cluster.parts(2).replicas, cluster.parts(2).link_s) == (8, 10**7 / 50e9)


def test_a_network_that_costs_nothing_gives_every_pairs_images() -> None:
    cluster = Cluster(0.01, 128, 1e9, 1e9, 1, 1, 0.25, pairs_per_node=4)
    assert cluster.images_per_second(3) == pytest.approx((3 * 4 * 128 / 0.01,) * 2)
