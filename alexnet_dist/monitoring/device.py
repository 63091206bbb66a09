"""What a rank shows of what it runs on: node, versions, device, and of a CUDA device its peak and its memory."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import torch
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from alexnet_dist.monitoring.series import PREFIX

# By the name that torch reports, in TFLOPS without sparsity, from NVIDIA's data sheets: bfloat16 and TF32 on tensor
# cores, float32 on the others. Not here: devices that share a chip (MIG) or whose data sheet depends on their cooling.
PEAK_TFLOPS: Mapping[str, tuple[float, float, float]] = {
    "NVIDIA H200": (989.0, 494.5, 67.0),
    "NVIDIA H100 80GB HBM3": (989.0, 494.5, 67.0),
    "NVIDIA H100 PCIe": (756.0, 378.0, 51.0),
    "NVIDIA A100-SXM4-80GB": (312.0, 156.0, 19.5),
    "NVIDIA A100-SXM4-40GB": (312.0, 156.0, 19.5),
    "NVIDIA A100 80GB PCIe": (312.0, 156.0, 19.5),
    "NVIDIA A100-PCIE-40GB": (312.0, 156.0, 19.5),
    "NVIDIA A40": (149.7, 74.8, 37.4),
}
PEAK_HELP = (
    "Peak floating-point operations per second of this rank's device in the run's precision, from its data sheet."
)
MEMORY_HELP = "Most bytes of device memory so far that torch's allocator has given to tensors, or has reserved."
COUNTS = {
    "allocator_retries": ("num_alloc_retries", "Allocations that freed cached device memory first, which takes time."),
    "out_of_memory": ("num_ooms", "Allocations for which there was no device memory."),
}


def peak_flops(device: torch.device, dtype: str, tf32: bool) -> float | None:
    """Return the FLOP/s of a device at multiplications of a dtype, TF32 or not; None if that is not known."""
    column = {"bfloat16": 0, "float32": 1 if tf32 else 2}.get(dtype)
    known = PEAK_TFLOPS.get(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if known is None or column is None else 1e12 * known[column]


def identity(device: torch.device) -> dict[str, str]:
    """Return what a rank runs on: node, versions, device, and on CUDA its UUID as NVIDIA's DCGM exporter writes it."""
    software = {"torch": _version("torch"), "version": _version("alexnet_dist")}
    where = {"node": platform.node(), **software, "device": device.type, "device_uuid": ""}
    if device.type != "cuda":
        return where
    properties = torch.cuda.get_device_properties(device)
    return {**where, "device": properties.name, "device_uuid": f"GPU-{properties.uuid}"}


class DeviceSeries(Collector):
    """The series of a CUDA device. They are read when they are scraped, from counters of the host: nothing waits."""

    def __init__(self, device: torch.device, labels: Mapping[str, str], peak: float | None) -> None:
        """Take the rank's device and labels; peak: FLOP/s, None if it is not known."""
        self._device, self._names, self._values, self._peak = device, list(labels), list(labels.values()), peak

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        if self._peak is not None:
            peak = GaugeMetricFamily(f"{PREFIX}device_peak_flops", PEAK_HELP, labels=self._names)
            peak.add_metric(self._values, self._peak)
            yield peak
        stats: Mapping[str, float] = {}
        with suppress(RuntimeError):  # the device has failed, which the run says itself
            stats = torch.cuda.memory_stats(self._device)
        if not stats:
            return
        memory = GaugeMetricFamily(f"{PREFIX}device_memory_peak_bytes", MEMORY_HELP, labels=[*self._names, "kind"])
        for kind in ("allocated", "reserved"):
            memory.add_metric([*self._values, kind], stats[f"{kind}_bytes.all.peak"])
        yield memory
        for name, (key, text) in COUNTS.items():
            count = CounterMetricFamily(f"{PREFIX}{name}", text, labels=self._names)
            count.add_metric(self._values, stats[key])
            yield count


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
