"""The check on a GPU, as far as a CPU can try it: its refusals, its summary, and the whole of it at a tiny size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, str(ROOT / "launch" / "gpu_check.py")]


def check(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], cwd=folder, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_it_says_so(tmp_path: Path) -> None:
    done = check(folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "torch finds no CUDA device; --dry-run tries the check itself on a CPU\n"
    assert not list(tmp_path.iterdir())


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "gpu_check").mkdir()
    done = check("--dry-run", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "--out: gpu_check exists; name a new folder, or remove it\n"


def test_a_part_that_fails_is_named_and_the_others_have_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "launch")
    import gpu_check

    def fails() -> dict[str, Any]:
        raise ValueError("no such kernel")

    row = {"images_per_second": 1234.0, "step_ms": 5.0, "mfu": 0.25}
    found: dict[str, Any] = {
        "versions": {"torch": "2.11"},
        "speed": {"rows": {"graph, batch 8": row}, "ours over plain, batch 8": 2.5},
        "tests": {"passed": 7, "skipped": 1, "failed": 0, "error": 0},
        "runs": gpu_check.measured("runs", fails),
        "lost rank": {"seconds_to_the_end": 1.0, "sentence": "error: rank 0 lost rank 1"},
        "holds": False,
    }
    text = gpu_check.summary(found)
    assert "1,234 images/s" in text
    assert "ours over plain, batch 8: 2.50" in text
    assert "tests: 7 passed, 1 skipped, 0 failed, 0 error" in text
    assert "ValueError: no such kernel" in text
    assert text.endswith("NOT all of it holds")


def test_the_files_of_its_tests_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "launch")
    import gpu_check

    assert gpu_check.TESTS
    assert all((ROOT / file).exists() for file in gpu_check.TESTS)


@pytest.mark.slow
def test_all_of_it_on_a_cpu(tmp_path: Path) -> None:
    done = check("--dry-run", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all of it holds" in done.stdout
    found = json.loads((tmp_path / "gpu_check" / "gpu_check.json").read_text())
    assert found["runs"]["same_losses"]
    assert found["runs"]["profile"]
    assert 0 < found["runs"]["stopped_at"] < found["runs"]["steps"]
    assert "lost rank 1" in found["lost rank"]["sentence"]
    assert found["tests"]["skipped"] > 0
    assert not found["tests"]["failures"]
