"""promtool, which evaluates PromQL on synthetic series."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)


def evaluated(
    tmp_path: Path, series: Sequence[Mapping[str, str]], expected: Mapping[str, Mapping[str, float]], digits: int = 3
) -> str:
    """Return what promtool finds wrong at second 30 of series with a sample a second; empty if nothing is.

    expected: of an expression, the values by their labels, to this many decimals.
    """
    scale = 10**digits  # promtool compares exactly, so integers
    cases = [
        {
            "expr": f"round(({expression}) * {scale})",
            "eval_time": "30s",
            "exp_samples": [
                {"labels": f"{{{labels}}}", "value": round(value * scale)} for labels, value in values.items()
            ],
        }
        for expression, values in expected.items()
    ]
    test: dict[str, Any] = {"interval": "1s", "input_series": list(series), "promql_expr_test": cases}
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "1s", "tests": [test]}))
    check = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    return "" if check.returncode == 0 else check.stdout + check.stderr
