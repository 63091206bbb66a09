"""One CUDA device computes what the CPU does, and the host never waits for it in a training step."""

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
from alexnet_dist.distributed import topology
from alexnet_dist.distributed.data_parallel import Reducer
from alexnet_dist.monitoring.timeline import DATA_WAIT, Timeline
from alexnet_dist.nn import geometry
from alexnet_dist.nn.geometry import Geometry, Norm
from alexnet_dist.nn.layers import DropoutKey, dropout
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.process import LaunchInfo
from alexnet_dist.training import build, resume
from alexnet_dist.training.feed import Batch, Feed
from alexnet_dist.training.optim import Rule
from alexnet_dist.training.run_plan import BatchSpec
from alexnet_dist.training.step import Engine, engine, train_step
from support.norms import literally, noise, value_and_gradient
from support.steps import Source, batch, fresh, gradients
from support.training import settings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = "cuda"
FORMATS = [torch.contiguous_format, torch.channels_last]


def there(one: Batch) -> Batch:
    return replace(one, images=one.images.to(DEVICE), labels=one.labels.to(DEVICE), slots=one.slots.to(DEVICE))


def assert_close(found: Tensor, wanted: Tensor, tolerance: float, what: object = "") -> None:
    """Compare on the CPU, relative to the largest value."""
    assert (found.detach().cpu() - wanted.detach()).abs().max() <= tolerance * wanted.detach().abs().max(), what


@contextmanager
def opened(shards: Path, home: Path, device: str, *words: str) -> Iterator[tuple[Engine, Feed]]:
    """Open what `train` opens before the first step of the tiny run, in its order: the ring is pinned on CUDA."""
    options = settings(shards, home, f"train.device={device}", *words)
    chosen = config.load([Path(options[1])], options[2:]).config
    place = topology.place("fused", device, LaunchInfo(0, 1, 0, 1, under_torchrun=False))
    splits = resume.open_splits(chosen)
    programme = resume.programme_of(chosen, splits, place)
    with resume.open_loader(chosen, splits, programme, place, 1) as loader:
        trainer = build.build_engine(chosen, place, topology.open_groups(place, 60))
        if place.device.type == "cuda":
            loader.pin()
        how = build.preparation(chosen, splits["train"], place)
        yield trainer, Feed(programme.tasks(0, 1, 0, 0), loader, place.towers, None, how, trainer.timeline)


def test_a_step_in_float64_is_the_cpus() -> None:
    here, device = fresh(), fresh(device=DEVICE)
    one = batch(0, 8)
    wanted, found = train_step(here, Source([one]), 0, 0.01).read(), train_step(device, Source([there(one)]), 0, 0.01)
    report = found.read()
    assert report.loss == pytest.approx(wanted.loss, rel=1e-10)
    assert report.wrong == wanted.wrong
    of_device = gradients(device)
    for name, gradient in gradients(here).items():
        assert_close(of_device[name], gradient, 1e-10, name)
    for tower in (0, 1):
        for name, weight in here.weights[tower].items():
            assert_close(device.weights[tower][name], weight, 1e-10, name)


def test_dropout_drops_the_same_units() -> None:
    units, slots = torch.ones(64, 512), torch.arange(7, 71)
    wanted = dropout(units, 0.5, "fc6", 2048, DropoutKey(3, 5, slots))
    found = dropout(units.to(DEVICE), 0.5, "fc6", 2048, DropoutKey(3, 5, slots.to(DEVICE)))
    assert found.cpu().equal(wanted)
    assert 0.4 < float(wanted.mean()) < 0.6


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_papers_net_in_float32(memory_format: torch.memory_format) -> None:
    images = 50 * torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    model = AlexNet().eval().to(DEVICE).to(memory_format=memory_format)  # type: ignore[call-overload]
    with torch.no_grad():
        narrow = model(images.to(DEVICE, memory_format=memory_format))
        wide = model.double()(images.double().to(DEVICE))
    assert narrow.dtype == torch.float32
    assert_close(narrow, wide.cpu(), 1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch's compiler about torch
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("compiled", [False, True])
def test_lrn_is_the_papers_formula(compiled: bool, memory_format: torch.memory_format) -> None:
    norm, maps, gradient = Norm(5, 0.2, 0.75, 2.0), noise(3, 9, 4, 4, scale=30.0), noise(3, 9, 4, 5)[..., :4]
    wanted = value_and_gradient(maps, gradient, norm, compiled=False)
    on_device = maps.to(DEVICE, memory_format=memory_format)
    value, slope = value_and_gradient(on_device, gradient.to(DEVICE), norm, compiled)
    assert np.abs(value.cpu().numpy() - literally(maps, norm)).max() <= 1e-12 * 30
    assert_close(slope, wanted[1], 1e-11)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nets_input_has_the_cpus_bits(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (5, 14, 14, 3), generator=generator, dtype=torch.uint8)
    mean, shift = 255 * torch.rand(3, 14, 14, generator=generator), torch.randn(5, 3, generator=generator)
    flip = torch.tensor([True, False, True, True, False])
    wanted = augment.network_input(pixels, mean, dtype, flip, shift, memory_format)
    there = [one.to(DEVICE) for one in (pixels, mean, flip, shift)]
    found = augment.network_input(there[0], there[1], dtype, there[2], there[3], memory_format)
    assert found.is_contiguous(memory_format=memory_format)
    assert found.cpu().equal(wanted)


def test_a_feed_from_the_pinned_ring_brings_the_cpus_batches(shards: Path, tmp_path: Path) -> None:
    batches: dict[str, list[Batch]] = {}
    for device in ("cpu", DEVICE):
        with opened(shards, tmp_path, device) as (_, feed):
            # More than the ring has slots, asked for without a pause: none may be written over while it is copied.
            batches[device] = [feed.take() for _ in range(20)]
    for found, wanted in zip(batches[DEVICE], batches["cpu"], strict=True):
        assert found.task.ids.tolist() == wanted.task.ids.tolist()
        assert found.images.device.type == DEVICE
        for ours, theirs in ((found.images, wanted.images), (found.labels, wanted.labels), (found.slots, wanted.slots)):
            assert ours.cpu().equal(theirs)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # torch about its own tool
@pytest.mark.parametrize(
    "words", [(), ("train.accumulate=2", "train.dtype=bfloat16"), ("train.channels_last=true", "optim.rule=lars")]
)
def test_the_host_never_waits_in_a_step(words: tuple[str, ...], shards: Path, tmp_path: Path) -> None:
    with opened(shards, tmp_path, DEVICE, "optim.trust_coefficient=0.02", *words) as (trainer, feed):
        for number in range(3):  # these may: they allocate and choose algorithms
            train_step(trainer, feed, number, 0.01).read()
        torch.cuda.set_sync_debug_mode("error")
        try:
            started = train_step(trainer, feed, 3, 0.01)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        report = started.read()
    assert 0 < report.loss < 20
    assert min(report.times.phase_s.values()) > -1e-4
    assert report.times.step_s == pytest.approx(sum(report.times.phase_s.values()), rel=1e-9)


def test_a_wait_that_the_device_did_not_stand_still_for_is_none() -> None:
    timeline, rows = Timeline(torch.device(DEVICE)), torch.randn(4096, 4096, device=DEVICE)
    rows @ rows  # starts the library
    torch.cuda.synchronize()
    timeline.cut()
    for _ in range(200):  # 27 TFLOP: longer than the host waits below, on any device of today
        rows @ rows
    with timeline.wait(DATA_WAIT, "samples"):
        time.sleep(0.05)
    timeline.lap("forward")
    busy = timeline.cut().read()  # returns when the device is idle
    timeline.cut()
    with timeline.wait(DATA_WAIT, "samples"):
        time.sleep(0.05)
    timeline.lap("forward")
    idle = timeline.cut().read()
    assert busy.phase_s[DATA_WAIT] < 0.005
    assert busy.step_s > 0.05
    assert busy.step_s == pytest.approx(sum(busy.phase_s.values()), rel=1e-9)
    assert idle.phase_s[DATA_WAIT] > 0.045


def test_the_papers_net_needs_no_more_memory_than_it_should() -> None:
    """At batch 128 in bfloat16, both towers on one device: no step is kept alive, nothing is kept twice or too wide."""
    net, rows = Geometry(), 128
    model = AlexNet(net).to(DEVICE)
    timeline = Timeline(torch.device(DEVICE))
    trainer = engine(model, Reducer(model, None, timeline), Rule(), 0, rows, 1, torch.bfloat16, timeline)
    slots = torch.arange(rows)
    one = Batch(
        BatchSpec(True, 0, 0, slots.numpy(), 0), torch.zeros(rows, 3, net.side, net.side), slots % net.classes, slots
    )
    moved = there(one)
    torch.cuda.reset_peak_memory_stats()
    for number in range(2):
        train_step(trainer, Source([moved]), number, 0.01).read()
    # Weights, velocities and gradients of 4 bytes, and bfloat16 copies of the weights: 61 M * 14 = 0.85 GB.
    held = geometry.parameter_count(net) * (3 * 4 + 2)
    # Of each of 0.66 M units an image: what ReLU and LRN return (2 + 2), LRN's denominators (4), and for what is
    # pooled, a quarter of them, the indices and values (10 / 4): 10.5, so 11 * 0.66 M * 128 = 0.93 GB.
    units = sum(shape.channels * shape.convolved_side**2 for shape in geometry.shapes(net))
    kept = 11 * units * rows
    # What comes and goes: LRN's float32 intermediates of one tower's conv1, at most 8 at a time (145,200 units * 4 * 8
    # * 128 = 0.6 GB), and the convolutions' workspaces (1 GB).
    passing = 8 * 4 * (96 // 2) * 55**2 * rows + (1 << 30)
    assert torch.cuda.max_memory_allocated() < held + kept + passing
