"""Check the CUDA path on one GPU in a few minutes: `python launch/gpu_check.py`; see CONTRIBUTING.md.

Speed of a step beside plain torch; the exactness of learning rates; the tests that need a GPU; a run that is profiled,
one that is stopped and resumed; a pair of ranks on one GPU that loses a rank. It prints a summary and writes all figures
to OUT/gpu_check.json, for whoever reports them. Exit code 0: all of it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TESTS = ("tests/cuda/test_cuda.py", "tests/cuda/test_cuda_graph.py", "tests/cuda/test_cuda_run.py",
         "tests/cuda/test_cuda_ranks.py", "tests/distributed/test_loopback.py")  # fmt: skip
COUNTS = re.compile(r"(\d+) (passed|failed|skipped|error)")
LARGEST_RATE_ERROR = 1e-6
STOP_AFTER, STEPS, LAST_STEP_OF_START = 40, 400, 60
TIMEOUT_S = 400.0

Figures = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How large the check is: on a GPU, or, with --dry-run, on a CPU. width_divisor: of the net in `speed`."""

    device: str
    batches: tuple[int, ...]
    timed_steps: int
    width_divisor: int
    dtype: str
    images: int
    steps: int
    run_words: tuple[str, ...]


GPU = Scale(
    "cuda", (128, 1024), 30, 1, "bfloat16", 4096, STEPS,
    ("train.dtype=bfloat16", "train.channels_last=true", "data.workers=auto", "data.global_batch=128"),
)  # fmt: skip
CPU = Scale(
    "cpu", (4,), 2, 8, "float32", 64, 60,
    ("model.layers.fc6.channels=64", "model.layers.fc7.channels=64", "data.global_batch=4", "data.workers=1"),
)  # fmt: skip


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
            "cudnn": torch.backends.cudnn.version(),
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
    """Return images a second of the plain net and of ours, and the share of the device's measured peak that they use."""
    from alexnet_dist.benchmark.contenders import training_steps

    peak_tflops = matrix_tflops(scale.device)
    rows: dict[str, dict[str, float]] = {}
    for batch in scale.batches:
        settings = training_steps.StepSettings(
            batch, scale.timed_steps, threads=8, device=scale.device, dtype=scale.dtype, channels_last=True,
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


def tests(_scale: Scale) -> Figures:
    """Return how many of the tests that need a GPU passed; one process a file, all at once."""

    def run(file: str) -> tuple[str, int, str]:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider", file]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        return file, done.returncode, done.stdout + done.stderr

    counts, failures = dict.fromkeys(("passed", "skipped", "failed", "error"), 0), {}
    with ThreadPoolExecutor() as pool:
        for file, code, said in pool.map(run, [file for file in TESTS if (ROOT / file).exists()]):
            for number, kind in COUNTS.findall(said.strip().splitlines()[-1]):
                counts[kind] += int(number)
            if code:
                failures[file] = said[-3000:]
    return {**counts, "failures": failures, "holds": not failures}


def data(scale: Scale, folder: Path) -> Path:
    """Return a packed set of generated images."""
    from alexnet_dist.benchmark import synthetic
    from alexnet_dist.benchmark.contenders.packing import run_pack
    from alexnet_dist.system import resources

    synthetic.write(folder / "images", scale.images, synthetic.PACKED_SIDES, synthetic.PACKED_CONTRAST)
    run_pack(folder / "images", folder / "shards", resources.cores(), 512)
    return folder / "shards"


def job(scale: Scale, folder: Path, name: str, ranks: int, *words: str) -> Any:
    """Return a training of `ranks` ranks under torchrun, not yet started."""
    from alexnet_dist.doctor.chaos.job import Job

    common = (
        "--config", str(ROOT / "configs" / "paper.yaml"), f"data.root={folder / 'shards'}", "model.classes=20",
        f"run.directory={folder / name}", f"run.steps={scale.steps}", "run.evaluate_every=0", "run.log_every=1",
        "metrics.port=null", f"train.device={scale.device}", "train.deterministic=true", *scale.run_words,
    )  # fmt: skip
    return Job([*common, *words], ranks, folder / f"{name}.log", restarts=0)


def losses(folder: Path, name: str) -> list[float]:
    """Return a run's losses by step."""
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


def runs(scale: Scale, folder: Path) -> Figures:
    """Return whether a run that is stopped by SIGTERM and resumed is, bit for bit, the run that is not."""
    graph = [f"train.cuda_graph={'true' if scale.device == 'cuda' else 'false'}", "topology.layout=fused"]
    whole = job(scale, folder, "whole", 1, *graph, "--profile", "5")
    parts = job(scale, folder, "parts", 1, *graph)
    whole.start()
    parts.start()
    wait_for(lambda: parts.last_step() >= STOP_AFTER or parts.has_ended(), "step 40 of a run")
    os.kill(parts.agent, signal.SIGTERM)
    wait_for(parts.has_ended, "the end of a run that was asked to stop")
    stopped_at = len(losses(folder, "parts"))
    wait_for(whole.has_ended, "the end of a run")
    parts.start()
    wait_for(parts.has_ended, "the end of a resumed run")
    first, second = losses(folder, "whole"), losses(folder, "parts")
    return {
        "steps": len(first),
        "stopped_at": stopped_at,
        "images_per_second": images_per_second(folder, "parts", stopped_at + LAST_STEP_OF_START),
        "profile": (folder / "whole" / "profile" / "rank-0.json").exists(),
        "same_losses": first == second,
        "log": whole.printed()[-1500:],
        "holds": first == second and len(first) == scale.steps and stopped_at < scale.steps,
    }


def images_per_second(folder: Path, name: str, first: int) -> float | None:
    """Return the rate of a run after a step, loader included; None if it has too few steps."""
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()][first:]
    if len(lines) < 2:
        return None
    return float(lines[-1]["images"] - lines[0]["images"]) / (lines[-1]["time_s"] - lines[0]["time_s"])


def lost_rank(scale: Scale, folder: Path) -> Figures:
    """Return how a pair on one device ends when a rank is killed: with a sentence, and soon."""
    words = ("topology.layout=paired", "topology.share_device=true", "topology.timeout_s=60", "run.steps=100000")
    pair = job(scale, folder, "pair", 2, *words)
    pair.start()
    wait_for(lambda: pair.last_step() >= STOP_AFTER or pair.has_ended(), "step 40 of a pair")
    steps, rank = pair.last_step(), pair.rank_process(1)
    began_s = time.monotonic()
    if rank is not None:
        os.kill(rank, signal.SIGKILL)
    wait_for(pair.has_ended, "the end of a pair that has lost a rank")
    sentence = next((line for line in pair.printed().splitlines() if line.startswith("error: ")), "")
    return {
        "steps": steps,
        "seconds_to_the_end": round(time.monotonic() - began_s, 1),
        "sentence": sentence,
        "holds": rank is not None and "rank 1" in sentence,
        "log": pair.printed()[-1500:],
    }


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; TimeoutError if it takes too long."""
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what} has not come within {TIMEOUT_S:.0f} s")
        time.sleep(0.05)


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
    """Make all parts of the check; those whose speed is not measured run beside each other."""
    found = {name: measured(name, partial(part, scale)) for name, part in
             (("versions", versions), ("rates", rates), ("speed", speed))}  # fmt: skip
    found["data"] = measured("data", lambda: {"shards": str(data(scale, folder))})
    with ThreadPoolExecutor() as pool:
        beside = {
            "tests": pool.submit(measured, "tests", lambda: tests(scale)),
            "runs": pool.submit(measured, "runs", lambda: runs(scale, folder)),
            "lost rank": pool.submit(measured, "lost rank", lambda: lost_rank(scale, folder)),
        }
        found |= {name: future.result() for name, future in beside.items()}
    found["holds"] = all(part.get("holds", True) for part in found.values())
    return found


def summary(found: Figures) -> str:
    """Return the figures that a person looks for."""
    lines = [
        ", ".join(f"{name} {value}" for name, value in found["versions"].items() if name not in ("holds", "seconds"))
    ]
    for name, row in found["speed"].get("rows", {}).items():
        lines.append(
            f"{name:<20} {row['images_per_second']:>9,.0f} images/s {row['step_ms']:>8.2f} ms  MFU {row['mfu']:.1%}"
        )
    lines += [f"{name}: {value:.2f}" for name, value in found["speed"].items() if name.startswith("ours over")]
    names = ("passed", "skipped", "failed", "error")
    lines.append("tests: " + ", ".join(f"{found['tests'].get(name, '?')} {name}" for name in names))
    run, pair = found["runs"], found["lost rank"]
    lines.append(f"a run, stopped at step {run.get('stopped_at')} and resumed: same losses {run.get('same_losses')}")
    lines.append(f"images/s of that run, loader included: {run.get('images_per_second') or 0:,.0f}")
    lines.append(f"a pair that lost a rank ended after {pair.get('seconds_to_the_end')} s: {pair.get('sentence')}")
    lines += [
        f"{name}: {part['failure']}" for name, part in found.items() if isinstance(part, dict) and "failure" in part
    ]
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
    (options.out / "gpu_check.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{summary(found)}\n{options.out / 'gpu_check.json'}")
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
