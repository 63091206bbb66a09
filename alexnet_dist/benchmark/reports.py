"""The eight benchmarks: each runs its contenders and returns the report that the command prints."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from alexnet_dist.benchmark import devices, synthetic
from alexnet_dist.benchmark.contenders import plain_nets
from alexnet_dist.benchmark.contenders.packing import run_pack
from alexnet_dist.benchmark.contenders.training_steps import StepSettings
from alexnet_dist.benchmark.rounds import Result, run_rounds
from alexnet_dist.benchmark.suites import checkpoint, link, loader, metrics, pack, scaling, step, train_run
from alexnet_dist.system import resources

SAMPLES_PER_SHARD = 1000  # of a set that is generated, unless there are more workers than such shards


@dataclass(frozen=True)
class SuiteReport:
    """The outcome of one benchmark.

    columns: title by figure. extra: further objects for the JSON; notes: the same as text.
    """

    results: Sequence[Result]
    columns: Mapping[str, str]
    ratios: Mapping[str, float]
    extra: Mapping[str, object] = field(default_factory=dict)
    notes: str = ""


def run_benchmark(arguments: argparse.Namespace) -> SuiteReport:
    """Run the benchmark that `arguments.benchmark` names, with a temporary folder for its files."""
    suites = {
        "pack": _pack,
        "loader": _loader,
        "step": _step,
        "train": _train,
        "link": _link,
        "scaling": _scaling,
        "checkpoint": _checkpoint,
        "metrics": _metrics,
    }
    with tempfile.TemporaryDirectory(prefix="alexnet-benchmark-") as folder:
        return suites[arguments.benchmark](arguments, Path(folder))


def _pack(arguments: argparse.Namespace, folder: Path) -> SuiteReport:
    source = arguments.source
    if source is None:
        source = folder / "photographs"
        synthetic.write(source, arguments.images, synthetic.FULL_SIDES, synthetic.FULL_CONTRAST)
    results = run_rounds(pack.contenders(source), arguments.rounds)
    return SuiteReport(results, pack.COLUMNS, pack.ratios(results))


def _loader(arguments: argparse.Namespace, folder: Path) -> SuiteReport:
    shards = arguments.shards or _generated_shards(arguments, folder, synthetic.CLASSES)
    contenders = loader.contenders(shards, folder / "others", arguments.workers, arguments.batch)
    results = run_rounds(contenders, arguments.rounds)
    return SuiteReport(results, loader.COLUMNS, loader.ratios(results))


def _generated_shards(arguments: argparse.Namespace, folder: Path, classes: int) -> Path:
    """Generate and pack photo-like images in `folder`, with a shard or more for each worker; return the packed set."""
    source, shards = folder / "photographs", folder / "shards"
    synthetic.write(source, arguments.images, synthetic.PACKED_SIDES, synthetic.PACKED_CONTRAST, classes)
    per_worker = arguments.images // max(1, arguments.workers)
    run_pack(source, shards, resources.cores(), max(1, min(SAMPLES_PER_SHARD, per_worker)))
    return shards


def _train(arguments: argparse.Namespace, folder: Path) -> SuiteReport:
    is_cpu = arguments.device == "cpu"
    devices.check_devices(arguments.device, 1)  # before anything is generated
    shards = arguments.shards or _generated_shards(arguments, folder, plain_nets.CLASSES)
    settings = train_run.RunSettings(
        shards,
        train_run.classes_of(shards, arguments.batch),
        arguments.batch,
        arguments.steps or (train_run.STEPS if is_cpu else train_run.STEPS_CUDA),
        arguments.workers,
        arguments.threads,
        arguments.device,
        "float32" if is_cpu else arguments.dtype,
    )
    results = run_rounds(train_run.contenders(settings, folder), arguments.rounds)
    extra = {"steps": settings.steps, "uncounted_steps": settings.warm_up}
    return SuiteReport(results, train_run.COLUMNS, train_run.ratios(results), extra, train_run.describe(settings))


def _step(arguments: argparse.Namespace, _folder: Path) -> SuiteReport:
    settings = StepSettings(arguments.batch, arguments.steps, arguments.threads)
    extra = {"leaves_out": step.LEAVES_OUT}
    if arguments.device == "cpu":
        results = run_rounds(step.contenders(settings), arguments.rounds)
        return SuiteReport(results, step.COLUMNS, step.ratios(results), extra, step.NOTES)
    settings = replace(
        settings,
        device="cuda",
        dtype=arguments.dtype,
        # On a device with tensor cores, bfloat16 is fastest in channels_last.
        channels_last=arguments.dtype == "bfloat16",
        peak_tflops=arguments.peak_tflops or 0.0,
    )
    results = run_rounds(step.cuda_contenders(settings), arguments.rounds)
    return SuiteReport(results, step.COLUMNS_CUDA, step.ratios(results), extra, step.NOTES)


def _link(arguments: argparse.Namespace, _folder: Path) -> SuiteReport:
    threads = max(1, arguments.threads // 2)
    contenders = link.contenders(arguments.batch, arguments.repeats, threads, arguments.device)
    results = run_rounds(contenders, arguments.rounds)
    return SuiteReport(link.by_join(results, arguments.batch), link.COLUMNS, link.ratios(results))


def _checkpoint(arguments: argparse.Namespace, _folder: Path) -> SuiteReport:
    results = run_rounds(
        checkpoint.contenders(arguments.folder, arguments.repeats, arguments.threads), arguments.rounds
    )
    return SuiteReport(results, checkpoint.COLUMNS, checkpoint.ratios(results))


def _metrics(arguments: argparse.Namespace, _folder: Path) -> SuiteReport:
    results = run_rounds(metrics.contenders(arguments.batch, arguments.steps, arguments.threads), arguments.rounds)
    return SuiteReport(results, metrics.COLUMNS, metrics.ratios(results), notes=metrics.NOTES)


def _scaling(arguments: argparse.Namespace, _folder: Path) -> SuiteReport:
    settings = StepSettings(arguments.batch, arguments.steps, arguments.threads)
    results = run_rounds(scaling.contenders(settings), arguments.rounds)
    measured = scaling.measured_bounds(results, settings)
    cluster = scaling.assumed_cluster(
        arguments.step_ms, arguments.pair_batch, arguments.network_gbit, arguments.link_gbytes
    )
    sums = scaling.status_sums(results)
    extra = {
        "bounds_here": measured,
        "status_sums": sums,
        "assumed": asdict(cluster),
        "bounds_of_nodes": scaling.node_bounds(cluster),
    }
    notes = scaling.describe(measured, sums, cluster)
    return SuiteReport(results, scaling.COLUMNS, scaling.ratios(results), extra, notes)
