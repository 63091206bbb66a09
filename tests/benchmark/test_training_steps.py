"""Each contender of ``step`` on a narrow net: that it trains, and that its figures are of what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from alexnet_dist.benchmark.contenders import link_joins as joins
from alexnet_dist.benchmark.contenders import norm as norms
from alexnet_dist.benchmark.contenders import plain_nets as nets
from alexnet_dist.benchmark.contenders import training_steps as steps
from alexnet_dist.benchmark.contenders.training_steps import InMemory, Job
from alexnet_dist.errors import RunError
from alexnet_dist.nn.geometry import training_flops
from support.ranks import Ranks

JOB = Job(batch=2, steps=2, threads=1, narrower=16)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _unchanged_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process of the tests as it was: its threads, its allocator."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(steps, "begin", lambda job: torch.set_num_threads(job.threads))
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("measure", [steps.measure_plain, steps.measure_fused])
def test_a_contender_of_one_process(measure: Callable[..., dict[str, float]]) -> None:
    found = measure(**asdict(replace(JOB, peak_tflops=0.5)))
    assert list(found) == ["images_per_second", "step_ms", "mfu"]
    assert found["images_per_second"] == pytest.approx(1000 * JOB.batch / found["step_ms"])
    work = training_flops(nets.geometry(JOB.narrower)) * found["images_per_second"]
    assert found["mfu"] == pytest.approx(work / 0.5e12)
    assert "mfu" not in measure(**asdict(JOB))


def test_bfloat16_and_channels_last_reach_the_net() -> None:
    job = replace(JOB, dtype="bfloat16", channels_last=True, batch=1)
    assert job.compute == torch.bfloat16
    assert InMemory(job, CPU).batch.images.is_contiguous(memory_format=torch.channels_last)
    assert steps.measure_fused(**asdict(job))["step_ms"] > 0
    model = nets.plain(JOB.narrower)
    step, losses = steps.plain_step(model, job, CPU)
    step(0)
    assert losses[0].dtype == torch.float32
    assert next(model[1].parameters()).is_contiguous(memory_format=torch.channels_last)


def test_the_plain_step_trains() -> None:
    model = nets.plain(JOB.narrower)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    step, losses = steps.plain_step(model, JOB, CPU)
    for number in range(2):
        step(number)
    assert len(losses) == 2
    assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_steps_that_warm_up_are_not_timed() -> None:
    numbers: list[int] = []
    assert steps.timed(numbers.append, 3, CPU) < 1
    assert numbers == [0, 1, 2, 3, 4]


def test_a_net_that_computes_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "RATE", float("nan"))
    with pytest.raises(RunError, match=r"losses \[.*nan.*\]; expected finite ones"):
        steps.measure_fused(**asdict(JOB))
    with pytest.raises(RunError, match=r"expected finite ones"):
        steps.measure_plain(**asdict(JOB))


def rank_figures(job: Job) -> dict[str, float]:
    return steps.measure_rank(**asdict(job))


@pytest.mark.parametrize("blocking", [False, True])
def test_a_pair_is_measured_with_its_link(run_ranks: Ranks, blocking: bool) -> None:
    delayed = replace(JOB, ns_per_byte=2000.0, blocking=blocking)
    first, second = run_ranks(2, rank_figures, delayed)
    assert first == second
    listed = joins.joins(nets.geometry(JOB.narrower), JOB.batch, 0, torch.float32)
    crossing = sum(join.size_bytes for join in listed if join.name not in joins.NO_ACTIVATIONS)
    assert first["received_megabytes"] == crossing / 1e6
    assert first["injected_ms"] == pytest.approx(crossing * 2000 / 1e6)
    if blocking:
        assert first["link_wait_ms"] > 0.99 * first["injected_ms"]
    assert 0 < first["link_wait_ms"] < first["step_ms"]


def test_two_pairs_count_both_batches(run_ranks: Ranks) -> None:
    found = run_ranks(4, rank_figures, JOB)
    assert found.count(found[0]) == 4
    assert found[0]["images_per_second"] == pytest.approx(2 * 1000 * JOB.batch / found[0]["step_ms"])
    assert found[0]["injected_ms"] == 0


def test_the_norms_are_timed_on_the_nets_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def doubled(maps: Tensor) -> Tensor:
        seen.append(tuple(maps.shape))
        return 2 * maps

    monkeypatch.setattr(norms, "_function", lambda _kind, _norm: doubled)
    for kind in ("torch", "eager", "compiled"):
        assert len(norms.repetitions_s(kind, 2, 1, narrower=16)) == 1
    whole, halves = [(2, 6, 55, 55), (2, 16, 27, 27)], [(2, 3, 55, 55)] * 2 + [(2, 8, 27, 27)] * 2
    assert seen == whole + 2 * halves


def test_both_norms_are_one_function() -> None:
    maps, norm = 30 * torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(2)), nets.geometry().norm
    torch.testing.assert_close(norms._function("torch", norm)(maps), norms._function("eager", norm)(maps))
