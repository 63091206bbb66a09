"""The series of a CUDA device: what torch's allocator has counted, the peak, and the labels; with a fake device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from prometheus_client import generate_latest

from alexnet_dist.monitoring import device as device_module
from alexnet_dist.monitoring.device import identity, peak_flops
from alexnet_dist.monitoring.metrics import Metrics

CUDA, CPU = torch.device("cuda", 1), torch.device("cpu")
NAME, UUID = "NVIDIA H100 80GB HBM3", "1f3c9b5e-0000-1111-2222-333344445555"
LABELS = {"run": "mine", "rank": "0", "replica": "0", "tower": "0+1"}
STATS = {
    "allocated_bytes.all.peak": 3e9, "reserved_bytes.all.peak": 4e9, "allocated_bytes.all.current": 1e9,
    "num_alloc_retries": 2, "num_ooms": 1,
}  # fmt: skip
OWN = {"device_memory_peak_bytes", "device_peak_flops", "allocator_retries_total", "out_of_memory_total"}


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The statistics of a device that is not there; whatever would wait for it fails the test."""
    stats = dict(STATS)

    def memory_stats(device: torch.device) -> dict[str, float]:
        assert device == CUDA
        return stats

    monkeypatch.setattr(torch.cuda, "memory_stats", memory_stats)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("the device was waited for"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: NAME)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name=NAME, uuid=UUID))
    return stats


def on(device: torch.device, peak: float | None = None) -> Metrics:
    return Metrics("mine", 0, 0, "0+1", 1, (), device, peak)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"alexnet_train_{name}", LABELS | labels)


def test_the_allocators_counts_are_read_at_each_scrape(stats: dict[str, float]) -> None:
    metrics = on(CUDA, 67e12)
    assert value(metrics, "device_memory_peak_bytes", kind="allocated") == 3e9
    assert value(metrics, "device_memory_peak_bytes", kind="reserved") == 4e9
    assert (value(metrics, "allocator_retries_total"), value(metrics, "out_of_memory_total")) == (2, 1)
    assert value(metrics, "device_peak_flops") == 67e12
    stats["num_ooms"] = 5
    assert value(metrics, "out_of_memory_total") == 5
    page = generate_latest(metrics.registry).decode()
    assert all(f"# TYPE alexnet_train_{name} " in page for name in OWN)


def test_a_device_whose_peak_or_memory_is_not_known(stats: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    assert value(on(CUDA), "device_peak_flops") is None
    stats.clear()  # nothing was allocated yet
    assert value(on(CUDA), "allocator_retries_total") is None

    def fail(_: torch.device) -> dict[str, float]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "memory_stats", fail)
    metrics = on(CUDA, 1e12)
    assert (value(metrics, "out_of_memory_total"), value(metrics, "world_size")) == (None, 1)


def test_a_cpu_has_no_such_series() -> None:
    page = generate_latest(on(CPU, 1e12).registry).decode()
    assert not any(name in page for name in OWN)


@pytest.mark.parametrize(
    ("dtype", "tf32", "expected"),
    [("bfloat16", False, 989e12), ("float32", True, 494.5e12), ("float32", False, 67e12), ("float64", False, None)],
)
def test_the_peak_is_that_of_the_precision(
    dtype: str, tf32: bool, expected: float | None, stats: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stats
    assert peak_flops(CUDA, dtype, tf32) == expected
    assert peak_flops(CPU, dtype, tf32) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: f"{NAME} MIG 1g.10gb")
    assert peak_flops(CUDA, dtype, tf32) is None


def test_peaks_fall_with_the_bits_of_the_mantissa() -> None:
    for bfloat16, tf32, float32 in device_module.PEAK_TFLOPS.values():
        assert bfloat16 > tf32 > float32 > 0


def test_a_rank_names_its_device(stats: dict[str, float]) -> None:
    assert stats
    assert identity(CUDA).items() >= {"device": NAME, "device_uuid": f"GPU-{UUID}"}.items()
    assert identity(CPU).items() >= {"device": "cpu", "device_uuid": "", "torch": torch.__version__}.items()
    (info,) = [family for family in on(CUDA).registry.collect() if family.name == "alexnet_train_rank_info"]
    assert {"node", "torch", "version", "device", "device_uuid"} == set(info.samples[0].labels) - set(LABELS)
