"""Check the CUDA path on one GPU in a few minutes: `python launch/gpu_check.py`; see CONTRIBUTING.md.

Speed of a step beside plain torch; the exactness of learning rates; the tests that need a GPU; a run that is profiled,
one that is stopped and resumed; a pair of ranks on one GPU that loses a rank. It prints a summary and writes all
figures to OUT/gpu_check.json, for whoever reports them. Exit code 0: all of it holds.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Lock

from gpu_check_runs import CPU, GPU, ROOT, TIMEOUT_S, Figures, Scale, data, lost_rank, runs

TESTS = ("tests/cuda/test_cuda.py", "tests/cuda/test_cuda_graph.py", "tests/cuda/test_cuda_run.py",
         "tests/cuda/test_cuda_ranks.py", "tests/distributed/test_loopback.py")  # fmt: skip
COUNTS = re.compile(r"(\d+) (passed|failed|skipped|error)")
LARGEST_RATE_ERROR = 1e-6
FILE = "gpu_check.json"


def versions(scale: Scale) -> Figures:
    """Return what the figures are of: the card, the processor, the versions."""
    import torch

    found: Figures = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
    if scale.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        found |= {
            "device": torch.cuda.get_device_name(),
            "memory_gigabytes": round(total / 1e9, 1),
            "free_gigabytes": round(free / 1e9, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
        }
    return found


def rates(scale: Scale) -> Figures:
    """Return the relative errors of small learning rates in an update, by how the rate is passed; see optim.update."""
    import torch

    from alexnet_dist.training.optim import DeviceRates, Rates, Rule, update

    found: Figures = {}
    for learning_rate in (1e-2, 1e-5, 1e-6):
        for kind in ("number", "tensor", "compiled"):
            weights, gradients, velocities = (
                {"fc.weight": torch.full((64, 64), value, device=scale.device)} for value in (0.0, -1.0, 0.0)
            )
            given: Rates | DeviceRates = Rates(learning_rate, learning_rate)
            if kind != "number":
                given = Rates(learning_rate, learning_rate).on(torch.device(scale.device), torch.float32)
            update(weights, gradients, velocities, given, Rule(), kind == "compiled")
            found[f"{learning_rate:g} as {kind}"] = abs(weights["fc.weight"][0, 0].item() / learning_rate - 1)
    found["holds"] = max(found.values()) <= LARGEST_RATE_ERROR
    return found


def speed(scale: Scale) -> Figures:
    """Return images a second of the plain net and of ours, and their share of the device's measured peak."""
    from alexnet_dist.benchmark.contenders import training_steps

    peak_tflops = matrix_tflops(scale.device)
    rows: dict[str, dict[str, float]] = {}
    for batch in scale.batches:
        settings = training_steps.StepSettings(
            batch, scale.timed_steps, threads=scale.threads, device=scale.device, dtype=scale.dtype, channels_last=True,
            width_divisor=scale.width_divisor, peak_tflops=peak_tflops,
        )  # fmt: skip
        contenders: Mapping[str, tuple[Callable[..., dict[str, float]], Figures]] = {
            "plain": (training_steps.measure_plain, {}),
            "fused": (training_steps.measure_fused, {"compile_norm": True}),
            "graph": (training_steps.measure_fused, {"compile_norm": True, "cuda_graph": True}),
        }
        for name, (measure, changes) in contenders.items():
            if name != "graph" or scale.device == "cuda":
                rows[f"{name}, batch {batch}"] = measure(**{**asdict(settings), **changes})
    ratios = {}
    for batch in scale.batches:
        plain, *ours = (row["images_per_second"] for name, row in rows.items() if name.endswith(f"batch {batch}"))
        ratios[f"ours over plain, batch {batch}"] = max(ours) / plain
    return {"peak_tflops": peak_tflops, "rows": rows, **ratios}


def kernels(scale: Scale) -> Figures:
    """Return in which kernels the device spends a step of the largest batch, in milliseconds and calls a step."""
    from torch.profiler import ProfilerActivity, profile

    from alexnet_dist.benchmark.contenders import training_steps

    on_cuda, steps = scale.device == "cuda", 4
    settings = training_steps.StepSettings(
        scale.batches[-1], steps, threads=scale.threads, device=scale.device, dtype=scale.dtype, channels_last=True,
        compile_norm=True, width_divisor=scale.width_divisor,
    )  # fmt: skip
    # What `speed` has chosen and compiled is there already: no trials of algorithms are counted.
    with profile(activities=[ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU]) as recorded:
        training_steps.measure_fused(**asdict(settings))
    steps += training_steps.WARM_UP_CUDA if on_cuda else training_steps.WARM_UP
    rows = [
        (event.self_device_time_total if on_cuda else event.self_cpu_time_total, event.count, event.key)
        for event in recorded.key_averages()
    ]
    total_ms = sum(row[0] for row in rows) / steps / 1000
    largest = [
        f"{time_us / steps / 1000:.3f} ms in {count / steps:.1f} calls: {name[:140]}"
        for time_us, count, name in sorted(rows, reverse=True)[:30]
    ]
    return {"total_ms": total_ms, "largest": largest}


def matrix_tflops(device: str) -> float:
    """Return the rate of a large product of bfloat16 matrices, the peak that can be reached here."""
    import torch

    side = 8192 if device == "cuda" else 512
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    times_s = []
    for _ in range(8):
        began_s = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for the device
        times_s.append(time.perf_counter() - began_s)
    return 2 * side**3 / statistics.median(times_s[3:]) / 1e12


def tests(scale: Scale, _folder: Path) -> Figures:
    """Return how many of the tests that need a GPU passed; one process a file, all at once."""

    def run(file: str) -> tuple[str, int, str]:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "-p", "no:cacheprovider", file]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as late:
            return file, 124, f"not finished after {TIMEOUT_S:.0f} s: {late.stdout!r}"
        return file, done.returncode, done.stdout + done.stderr

    counts, failures = dict.fromkeys(("passed", "skipped", "failed", "error"), 0), {}
    with ThreadPoolExecutor() as pool:
        for file, code, said in pool.map(run, TESTS):
            for number, kind in COUNTS.findall((said.strip().splitlines() or [""])[-1]):
                counts[kind] += int(number)
            if code:
                failures[file] = said[-3000:]
    some = counts["passed"] > 0 or scale.device == "cpu"
    return {**counts, "failures": failures, "holds": some and not failures}


def measured(name: str, part: Callable[[], Figures]) -> Figures:
    """Return a part's figures and its seconds, or, if it fails, why."""
    began_s = time.monotonic()
    print(f"{name} ...", flush=True)
    try:
        found = part()
    except Exception:  # every other part is still worth its figures
        found = {"failure": traceback.format_exc()[-3000:], "holds": False}
    found["seconds"] = round(time.monotonic() - began_s, 1)
    print(f"{name}: {'ok' if found.get('holds', True) else 'FAILED'} after {found['seconds']:.0f} s", flush=True)
    return found


def check(scale: Scale, folder: Path) -> Figures:
    """Make all parts of the check; the last three run beside each other, so the rate of a whole run is a lower bound.

    The figures so far are in the file after each part: a machine that is lent may be taken back.
    """
    found: Figures = {}
    writing = Lock()

    def make(name: str, part: Callable[[], Figures]) -> None:
        figures = measured(name, part)
        with writing:
            found[name] = figures
            found["holds"] = all(each.get("holds", True) for each in found.values() if isinstance(each, dict))
            (folder / FILE).write_text(json.dumps(found, indent=1) + "\n")

    for name, part in (("versions", versions), ("rates", rates), ("speed", speed), ("kernels", kernels)):
        make(name, partial(part, scale))
    free_memory(scale)
    make("data", lambda: {"shards": str(data(scale, folder))})
    with ThreadPoolExecutor() as pool:
        parts = (("tests", tests), ("runs", runs), ("lost rank", lost_rank))
        for future in [pool.submit(make, name, partial(part, scale, folder)) for name, part in parts]:
            future.result()
    return found


def free_memory(scale: Scale) -> None:
    """Give the device's memory that this process holds to the processes that follow."""
    import torch

    gc.collect()
    if scale.device == "cuda":
        torch.cuda.empty_cache()


def summary(found: Figures) -> str:
    """Return the figures that a person looks for."""
    lines = [", ".join(f"{name} {value}" for name, value in found["versions"].items())]
    for name, row in found["speed"].get("rows", {}).items():
        rate = f"{row['images_per_second']:>9,.0f} images/s {row['step_ms']:>8.2f} ms"
        lines.append(f"{name:<20} {rate}  MFU {row['mfu']:.1%}")
    lines += [f"{name}: {value:.2f}" for name, value in found["speed"].items() if name.startswith("ours over")]
    run, pair, tested = found["runs"], found["lost rank"], found["tests"]
    lines += [
        "tests: " + ", ".join(f"{tested.get(name, '?')} {name}" for name in ("passed", "skipped", "failed", "error")),
        f"a run, stopped at step {run.get('stopped_at')} and resumed: same losses {run.get('same_losses')}",
        f"images/s of that run, loader included: {run.get('images_per_second') or 0:,.0f}",
        f"a pair that lost a rank ended after {pair.get('seconds_to_the_end')} s: {pair.get('sentence')}",
    ]
    parts = {name: part for name, part in found.items() if isinstance(part, dict)}
    lines += [f"{name}: {part['failure']}" for name, part in parts.items() if "failure" in part]
    return "\n".join([*lines, "all of it holds" if found["holds"] else "NOT all of it holds"])


def main() -> int:
    """Check, print a summary and write all figures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="a new folder for figures, runs and logs")
    parser.add_argument("--dry-run", action="store_true", help="the same on a CPU, with a tiny net: checks the check")
    options = parser.parse_args()
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        print("torch finds no CUDA device; --dry-run tries the check itself on a CPU", file=sys.stderr)
        return 2
    if options.out.exists():
        print(f"--out: {options.out} exists; name a new folder, or remove it", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True)
    found = check(CPU if options.dry_run else GPU, options.out.absolute())
    print(f"\n{summary(found)}\n{options.out / FILE}")
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
