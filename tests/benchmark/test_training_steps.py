"""Each contender of ``step`` on a narrow net: it trains, and its figures describe its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from alexnet_dist.benchmark.contenders import link_joins, norm, plain_nets, training_steps
from alexnet_dist.benchmark.contenders.training_steps import InMemory, StepSettings, prepare_process
from alexnet_dist.errors import RunError
from alexnet_dist.nn.geometry import training_flops
from alexnet_dist.nn.precision import set_precision
from alexnet_dist.system import resources
from support.ranks import Ranks

SETTINGS = StepSettings(batch=2, steps=2, threads=1, width_divisor=16)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _unchanged_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process of the tests as it was: its threads, its allocator."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(training_steps, "prepare_process", lambda settings: torch.set_num_threads(settings.threads))
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("measure", [training_steps.measure_plain, training_steps.measure_fused])
def test_a_contender_of_one_process(measure: Callable[..., dict[str, float]]) -> None:
    figures = measure(**asdict(replace(SETTINGS, peak_tflops=0.5)))
    assert list(figures) == ["images_per_second", "step_ms", "mfu"]
    assert figures["images_per_second"] == pytest.approx(1000 * SETTINGS.batch / figures["step_ms"])
    work = training_flops(plain_nets.geometry(SETTINGS.width_divisor)) * figures["images_per_second"]
    assert figures["mfu"] == pytest.approx(work / 0.5e12)
    assert "mfu" not in measure(**asdict(SETTINGS))


def test_bfloat16_and_channels_last_reach_the_net() -> None:
    settings = replace(SETTINGS, dtype="bfloat16", channels_last=True, batch=1)
    assert settings.compute_dtype == torch.bfloat16
    assert InMemory(settings, CPU).batch.images.is_contiguous(memory_format=torch.channels_last)
    assert training_steps.measure_fused(**asdict(settings))["step_ms"] > 0
    model = plain_nets.plain(SETTINGS.width_divisor)
    step, losses = training_steps.plain_step(model, settings, CPU)
    step(0)
    assert losses[0].dtype == torch.float32
    assert next(model[1].parameters()).is_contiguous(memory_format=torch.channels_last)


def test_the_plain_step_trains() -> None:
    model = plain_nets.plain(SETTINGS.width_divisor)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    step, losses = training_steps.plain_step(model, SETTINGS, CPU)
    for number in range(2):
        step(number)
    assert len(losses) == 2
    assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_steps_that_warm_up_are_not_timed() -> None:
    numbers: list[int] = []
    assert training_steps.timed(numbers.append, 3, CPU) < 1
    assert numbers == [0, 1, 2, 3, 4]


def test_a_net_that_computes_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_steps, "LEARNING_RATE", float("nan"))
    with pytest.raises(RunError, match=r"losses \[.*nan.*\]; expected finite ones"):
        training_steps.measure_fused(**asdict(SETTINGS))
    with pytest.raises(RunError, match=r"expected finite ones"):
        training_steps.measure_plain(**asdict(SETTINGS))


def rank_figures(settings: StepSettings) -> dict[str, float]:
    return training_steps.measure_rank(**asdict(settings))


@pytest.mark.parametrize("blocking", [False, True])
def test_a_pair_is_measured_with_its_link(run_ranks: Ranks, blocking: bool) -> None:
    delayed = replace(SETTINGS, ns_per_byte=2000.0, blocking=blocking)
    first, second = run_ranks(2, rank_figures, delayed)
    assert first == second
    exchanges = link_joins.joins(plain_nets.geometry(SETTINGS.width_divisor), SETTINGS.batch, 0, torch.float32)
    crossing = sum(join.size_bytes for join in exchanges if join.name not in link_joins.NOT_IN_MEMORY_STEP)
    assert first["received_megabytes"] == crossing / 1e6
    assert first["injected_ms"] == pytest.approx(crossing * 2000 / 1e6)
    if blocking:
        assert first["link_wait_ms"] > 0.99 * first["injected_ms"]
    assert 0 < first["link_wait_ms"] < first["step_ms"]


def test_two_pairs_count_both_batches(run_ranks: Ranks) -> None:
    figures = run_ranks(4, rank_figures, SETTINGS)
    assert figures.count(figures[0]) == 4
    assert figures[0]["images_per_second"] == pytest.approx(2 * 1000 * SETTINGS.batch / figures[0]["step_ms"])
    assert figures[0]["injected_ms"] == 0


def test_the_norms_are_timed_on_the_nets_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def doubled(maps: Tensor) -> Tensor:
        seen.append(tuple(maps.shape))
        return 2 * maps

    monkeypatch.setattr(norm, "_norm_function", lambda _kind, _norm: doubled)
    for kind in ("torch", "eager", "compiled"):
        assert len(norm.repetitions_s(kind, 2, 1, width_divisor=16)) == 1
    whole, halves = [(2, 6, 55, 55), (2, 16, 27, 27)], [(2, 3, 55, 55)] * 2 + [(2, 8, 27, 27)] * 2
    assert seen == whole + 2 * halves


def test_both_norms_are_one_function() -> None:
    maps = 30 * torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(2))
    by_torch, ours = (norm._norm_function(kind, plain_nets.geometry().norm) for kind in ("torch", "eager"))
    torch.testing.assert_close(by_torch(maps), ours(maps))


def test_what_is_called_float32_is_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's default is TF32 in the convolutions of a GPU, of which a CPU can only read the switch."""
    monkeypatch.setattr(resources, "keep_freed_memory", lambda: None)
    torch.backends.cudnn.allow_tf32 = True
    try:
        prepare_process(SETTINGS)
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        set_precision(deterministic=False, tf32=False)
