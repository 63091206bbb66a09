"""One CUDA device computes the same as the CPU, and the host never waits for it in a training step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from alexnet_dist import config
from alexnet_dist.data import augment
from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.distributed.groups import open_groups
from alexnet_dist.monitoring.timeline import DATA_WAIT, Timeline
from alexnet_dist.nn import geometry
from alexnet_dist.nn.compiler import compiled
from alexnet_dist.nn.geometry import Geometry, Norm
from alexnet_dist.nn.layers import DropoutKey, dropout
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.system.environment import LaunchInfo
from alexnet_dist.training.build import build_engine
from alexnet_dist.training.feed import Batch, Feed
from alexnet_dist.training.inputs import open_loader, open_run
from alexnet_dist.training.optim import DeviceRates, Rates, Rule, update
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.step import Engine, new_engine, train_step
from support.norms import literally, noise, value_and_gradient
from support.steps import RATES, Source, batch, fresh, gradients
from support.training import settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning"),  # raised inside torch's compiler
    pytest.mark.usefixtures("exact"),
]

DEVICE = "cuda"
FORMATS = [torch.contiguous_format, torch.channels_last]


def on_device(batch: Batch) -> Batch:
    images, labels, slots = (tensor.to(DEVICE) for tensor in (batch.images, batch.labels, batch.slots))
    return replace(batch, images=images, labels=labels, slots=slots)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, name: str = "") -> None:
    """Compare on the CPU, relative to the largest value."""
    error = (actual.detach().cpu() - expected.detach()).abs().max()
    assert error <= tolerance * expected.detach().abs().max(), name


@contextmanager
def engine_and_feed(shards: Path, home: Path, device: str, *changes: str) -> Iterator[tuple[Engine, Feed]]:
    """Open the tiny run in the order of `train`, up to the first step; on CUDA the ring is pinned."""
    arguments = settings(shards, home, f"train.device={device}", "topology.layout=fused", *changes)
    chosen = config.load([Path(arguments[1])], arguments[2:]).config
    run = open_run(chosen, LaunchInfo(0, 1, 0, 1, under_torchrun=False))
    with open_loader(run) as loader:
        engine = build_engine(run, open_groups(run.topology, 60))
        if run.topology.device.type == "cuda":
            loader.pin()
        yield engine, Feed(run, run.plan.batches(0, 1, 0, 0), loader, None, engine.timeline)


def test_a_step_in_float64_is_the_cpus() -> None:
    cpu, cuda = fresh(), fresh(device=DEVICE)
    samples = batch(0, 8)
    expected = train_step(cpu, Source([samples]), 0, RATES).read()
    report = train_step(cuda, Source([on_device(samples)]), 0, RATES).read()
    assert report.loss == pytest.approx(expected.loss, rel=1e-10)
    assert report.wrong == expected.wrong
    cuda_gradients = gradients(cuda)
    for name, gradient in gradients(cpu).items():
        assert_close(cuda_gradients[name], gradient, 1e-10, name)
    for tower in (0, 1):
        for name, weight in cpu.weights[tower].items():
            assert_close(cuda.weights[tower][name], weight, 1e-10, name)


@pytest.mark.parametrize("learning_rate", [1e-2, 1e-5, 1e-6])
@pytest.mark.parametrize("kind", ["number", "tensor", "compiled"])
def test_the_learning_rate_is_not_rounded(kind: str, learning_rate: float) -> None:
    """torch's fused kernel makes 1e-5 1.00136e-5 on CUDA, and 1e-6 1.3 % more."""
    generator = torch.Generator().manual_seed(4)
    weight, gradient, velocity = (torch.randn(64, 33, generator=generator).to(DEVICE) for _ in range(3))
    velocity *= learning_rate
    wide = [tensor.double() for tensor in (weight, gradient, velocity)]
    expected = 0.9 * wide[2] - learning_rate * (0.0005 * wide[0] + wide[1])
    rates: Rates | DeviceRates = Rates(learning_rate, learning_rate)
    if kind != "number":
        rates = Rates(learning_rate, learning_rate).on(torch.device(DEVICE), torch.float32)
    own = weight.clone()
    update({"w.weight": own}, {"w.weight": gradient}, {"w.weight": velocity}, rates, Rule(), kind == "compiled")
    assert (velocity.double() - expected).abs().max() <= 3e-7 * expected.abs().max()
    assert (own.double() - (wide[0] + expected)).abs().max() <= 2e-7 * wide[0].abs().max()


@pytest.mark.parametrize("is_compiled", [False, True])
def test_dropout_drops_the_same_units(is_compiled: bool) -> None:
    units, slots = torch.ones(64, 512), torch.arange(7, 71)
    expected = dropout(units, 0.5, "fc6", 2048, DropoutKey(3, 5, slots))
    actual = dropout(units.to(DEVICE), 0.5, "fc6", 2048, DropoutKey(3, 5, slots.to(DEVICE)), is_compiled)
    assert actual.cpu().equal(expected)
    assert 0.4 < float(expected.mean()) < 0.6


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_papers_net_in_float32(memory_format: torch.memory_format) -> None:
    images = 50 * torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    model = AlexNet().eval().to(DEVICE).to(memory_format=memory_format)  # type: ignore[call-overload]
    with torch.no_grad():
        narrow = model(images.to(DEVICE, memory_format=memory_format))
        wide = model.double()(images.double().to(DEVICE))
    assert narrow.dtype == torch.float32
    assert_close(narrow, wide.cpu(), 1e-4)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("is_compiled", [False, True])
def test_lrn_is_the_papers_formula(is_compiled: bool, memory_format: torch.memory_format) -> None:
    norm, maps, gradient = Norm(5, 0.2, 0.75, 2.0), noise(3, 9, 4, 4, scale=30.0), noise(3, 9, 4, 5)[..., :4]
    _, expected_slope = value_and_gradient(maps, gradient, norm, compiled=False)
    device_maps = maps.to(DEVICE, memory_format=memory_format)
    value, slope = value_and_gradient(device_maps, gradient.to(DEVICE), norm, is_compiled)
    assert np.abs(value.cpu().numpy() - literally(maps, norm)).max() <= 1e-12 * 30
    assert_close(slope, expected_slope, 1e-11)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_the_nets_input_has_the_cpus_bits(
    is_compiled: bool, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (5, 14, 14, 3), generator=generator, dtype=torch.uint8)
    mean, shift = 255 * torch.rand(3, 14, 14, generator=generator), torch.randn(5, 3, generator=generator)
    flip = torch.tensor([True, False, True, True, False])
    expected = augment.network_input(pixels, mean, dtype, flip, shift, memory_format)
    pixels, mean, flip, shift = (tensor.to(DEVICE) for tensor in (pixels, mean, flip, shift))
    make = compiled(augment.network_input) if is_compiled else augment.network_input
    actual = make(pixels, mean, dtype, flip, shift, memory_format)
    assert actual.is_contiguous(memory_format=memory_format)
    assert actual.cpu().equal(expected)


def test_a_feed_from_the_pinned_ring_brings_the_cpus_batches(shards: Path, tmp_path: Path) -> None:
    batches: dict[str, list[Batch]] = {}
    for device in ("cpu", DEVICE):
        with engine_and_feed(shards, tmp_path, device) as (_, feed):
            # More batches than the ring has slots, without a pause: no slot may be overwritten while it is copied.
            batches[device] = [feed.take() for _ in range(20)]
    for actual, expected in zip(batches[DEVICE], batches["cpu"], strict=True):
        assert actual.spec.ids.tolist() == expected.spec.ids.tolist()
        assert actual.images.device.type == DEVICE
        assert actual.images.cpu().equal(expected.images)
        assert actual.labels.cpu().equal(expected.labels)
        assert actual.slots.cpu().equal(expected.slots)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # torch warns that the mode is a prototype
@pytest.mark.parametrize(
    "changes", [(), ("train.accumulate=2", "train.dtype=bfloat16"), ("train.channels_last=true", "optim.rule=lars")]
)
def test_the_host_never_waits_in_a_step(changes: tuple[str, ...], shards: Path, tmp_path: Path) -> None:
    with engine_and_feed(shards, tmp_path, DEVICE, "optim.trust_coefficient=0.02", *changes) as (engine, feed):
        for step in range(3):  # these may: they allocate and choose algorithms
            train_step(engine, feed, step, RATES).read()
        torch.cuda.set_sync_debug_mode("error")
        try:
            pending = train_step(engine, feed, 3, RATES)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        report = pending.read()
    assert 0 < report.loss < 20
    assert min(report.times.phase_s.values()) > -1e-4
    assert report.times.step_s == pytest.approx(sum(report.times.phase_s.values()), rel=1e-9)


def test_a_wait_that_the_device_did_not_stand_still_for_is_none() -> None:
    timeline, matrix = Timeline(torch.device(DEVICE)), torch.randn(4096, 4096, device=DEVICE)
    matrix @ matrix  # initialises cuBLAS
    torch.cuda.synchronize()
    timeline.take()
    for _ in range(200):  # 27 TFLOP: longer than the host waits below, on any current device
        matrix @ matrix
    with timeline.wait(DATA_WAIT, "samples"):
        time.sleep(0.05)
    timeline.mark("forward")
    busy = timeline.take().read()  # returns when the device is idle
    timeline.take()
    with timeline.wait(DATA_WAIT, "samples"):
        time.sleep(0.05)
    timeline.mark("forward")
    idle = timeline.take().read()
    assert busy.phase_s[DATA_WAIT] < 0.005
    assert busy.step_s > 0.05
    assert busy.step_s == pytest.approx(sum(busy.phase_s.values()), rel=1e-9)
    assert idle.phase_s[DATA_WAIT] > 0.045


def test_the_papers_net_needs_no_more_memory_than_it_should() -> None:
    """At batch 128 in bfloat16, both towers on one device: no step is kept alive, nothing is kept twice."""
    net, samples = Geometry(), 128
    model = AlexNet(net).to(DEVICE)
    timeline = Timeline(torch.device(DEVICE))
    engine = new_engine(model, Reducer(model, None, timeline), Rule(), 0, samples, 1, torch.bfloat16, timeline)
    slots = torch.arange(samples)
    spec, images = BatchSpec(True, 0, 0, slots.numpy(), 0), torch.zeros(samples, 3, net.side, net.side)
    device_batch = on_device(Batch(spec, images, slots % net.classes, slots))
    torch.cuda.reset_peak_memory_stats()
    for step in range(2):
        train_step(engine, Source([device_batch]), step, RATES).read()
    # Weights, velocities and gradients of 4 bytes, and bfloat16 copies of the weights: 61 M * 14 = 0.85 GB.
    held = geometry.parameter_count(net) * (3 * 4 + 2)
    # For each of 0.66 M units an image: the outputs of ReLU and LRN (2 + 2 bytes), LRN's denominators (4), and for the
    # pooled quarter of them the indices and values (10 / 4): 10.5 bytes, so 11 * 0.66 M * 128 = 0.93 GB.
    units = sum(shape.channels * shape.convolved_side**2 for shape in geometry.shapes(net))
    kept = 11 * units * samples
    # Temporaries: LRN's float32 intermediates of one tower's conv1, at most 8 at a time (145,200 units * 4 * 8 * 128 =
    # 0.6 GB), and the convolutions' workspaces (1 GB).
    temporary = 8 * 4 * (96 // 2) * 55**2 * samples + (1 << 30)
    assert torch.cuda.max_memory_allocated() < held + kept + temporary
