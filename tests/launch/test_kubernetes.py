"""The Kubernetes files: by the models that Kubeflow Trainer publishes, by field, and their script on two nodes."""

from __future__ import annotations

import copy
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.agents import wait_for_step
from support.namespaces import Node
from support.training import REPOSITORY, finished, losses, settings, torchrun

KUBERNETES = REPOSITORY / "launch" / "kubernetes"
MODELS = {
    "Job": "IoK8sApiBatchV1Job",
    "TrainingRuntime": "TrainerV1alpha1TrainingRuntime",
    "TrainJob": "TrainerV1alpha1TrainJob",
}


def manifests(name: str) -> dict[str, dict[str, Any]]:
    """Return a file's Kubernetes objects by kind."""
    objects = {item["kind"]: item for item in yaml.safe_load_all((KUBERNETES / name).read_text())}
    assert all({"apiVersion", "kind", "metadata", "spec"} <= set(item) for item in objects.values())
    return objects


def unknown(found: Any, known: Any, path: str = "") -> list[str]:
    """Return the paths of what a file has and a model does not: models ignore fields that they do not know."""
    if isinstance(found, dict) and isinstance(known, dict):
        problems = [unknown(value, known[key], f"{path}.{key}") if key in known else [f"{path}.{key}"]
                    for key, value in found.items()]  # fmt: skip
    elif isinstance(found, list) and isinstance(known, list) and len(found) == len(known):
        problems = [unknown(*pair, f"{path}[{number}]") for number, pair in enumerate(zip(found, known, strict=True))]
    else:
        problems = [] if found == known else [[f"{path}: {found} is read as {known}"]]
    return [each for problem in problems for each in problem]


def problems(manifest: dict[str, Any]) -> list[str]:
    """Return what the published model of a manifest's kind does not accept."""
    import kubeflow_trainer_api.models  # 800 modules
    from pydantic import ValidationError

    try:
        model = getattr(kubeflow_trainer_api.models, MODELS[manifest["kind"]]).from_dict(manifest)
    except ValidationError as error:
        return [".".join(map(str, each["loc"])) for each in error.errors()]
    return unknown(manifest, model.to_dict())


def fields(value: Any, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every field of a manifest, without those in maps of free names."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from fields(each, *path, number)
    elif isinstance(value, dict) and not (
        path and path[-1] in ("labels", "matchLabels", "limits", "requests", "torch")
    ):
        for key, each in value.items():
            yield (*path, key)
            yield from fields(each, *path, key)


@pytest.mark.parametrize(
    ("name", "kind"), [("train.yaml", "Job"), ("trainjob.yaml", "TrainingRuntime"), ("trainjob.yaml", "TrainJob")]
)
def test_the_published_model_knows_every_field_and_no_misspelt_one(name: str, kind: str) -> None:
    manifest = manifests(name)[kind]
    assert problems(manifest) == []
    for *path, last in fields(manifest):
        if isinstance(last, int) or path[:1] == ["metadata"] or last in ("kind", "apiVersion"):
            continue
        mutant = copy.deepcopy(manifest)
        place: Any = mutant
        for step in path:
            place = place[step]
        place[f"{last}s"] = place.pop(last)
        assert problems(mutant), f"{'.'.join(map(str, path))}.{last}s is accepted"


def test_the_kubernetes_job_can_start_a_run() -> None:
    objects = manifests("train.yaml")
    service, job = objects["Service"], objects["Job"]
    name = job["metadata"]["name"]
    assert (service["apiVersion"], job["apiVersion"]) == ("v1", "batch/v1")
    assert service["spec"]["clusterIP"] == "None"  # makes the service headless
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = environment(container)
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(values["NODES"])
    assert pod["subdomain"] == service["metadata"]["name"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(values["GPUS"])
    port = next(port["port"] for port in service["spec"]["ports"] if port["name"] == "rendezvous")
    assert f"--rdzv-endpoint={name}-0.{pod['subdomain']}:{port}" in container["args"][0]
    check_pod(pod, container, container["args"][0], int(values["GPUS"]))


def test_the_train_job_can_start_a_run() -> None:
    objects = manifests("trainjob.yaml")
    runtime, job = objects["TrainingRuntime"], objects["TrainJob"]
    assert job["spec"]["runtimeRef"] == {"kind": runtime["kind"], "name": runtime["metadata"]["name"]}
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    # By this label and these names the controller finds what it starts torchrun in.
    labels = replicated["template"]["metadata"]["labels"]
    assert labels == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    pod = replicated["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (replicated["name"], container["name"]) == ("node", "node")
    trainer = job["spec"]["trainer"]
    environment(trainer)
    assert trainer["numNodes"] == runtime["spec"]["mlPolicy"]["numNodes"]
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == trainer["numProcPerNode"]
    check_pod(pod, container, trainer["args"][0], trainer["numProcPerNode"])


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a container; checks those that each launcher sets."""
    values = {variable["name"]: variable["value"] for variable in container["env"]}
    assert all(isinstance(value, str) for value in values.values())  # Kubernetes rejects numbers here
    assert values["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == values["NCCL_LAUNCH_ORDER_IMPLICIT"] == "1"
    return values


def check_pod(pod: dict[str, Any], container: dict[str, Any], script: str, gpus: int) -> None:
    """Check what the pods of both files need."""
    assert gpus % 2 == 0
    assert pod["restartPolicy"] == "Never"  # required by a podFailurePolicy
    assert pod["terminationGracePeriodSeconds"] > 30  # longer than torchrun's own grace period
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "kill -TERM" in script  # bash passes SIGTERM on
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_pod_monitor_asks_for_the_port_of_every_rank() -> None:
    job, objects = manifests("train.yaml")["Job"], manifests("podmonitor.yaml")
    (replicated,) = manifests("trainjob.yaml")["TrainingRuntime"]["spec"]["template"]["spec"]["replicatedJobs"]
    monitor, policy = objects["PodMonitor"], objects["NetworkPolicy"]
    for template in (job["spec"]["template"], replicated["template"]["spec"]["template"]):
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"] if "metrics-" in port["name"]}
        assert ports == {"metrics-0": 9410, "metrics-1": 9411}
        assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == list(ports)
        labels = template["metadata"]["labels"].items()
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels


def start_pods(kind: str, nodes: tuple[Node, Node], directory: Path, words: list[str]) -> list[subprocess.Popen[str]]:
    """Run a container's script on two network namespaces, with the variables that Kubernetes or the controller sets."""
    if kind == "Job":
        head = "alexnet-0.alexnet"
        (container,) = manifests("train.yaml")["Job"]["spec"]["template"]["spec"]["containers"]
    else:
        head = "alexnet-node-0-0.alexnet"
        container = manifests("trainjob.yaml")["TrainJob"]["spec"]["trainer"]
    script = container["args"][0].replace("run=/runs/paper", f"run={directory}")
    script = re.sub(r"--config .* &\n", '"$@" &\n', script, flags=re.DOTALL)
    script = script.replace("torchrun", f"{sys.executable} -m torch.distributed.run")
    hosts = directory.with_name("hosts")
    hosts.write_text(f"127.0.0.1 localhost\n{nodes[0].address} {head}\n")
    enter = f'cd {REPOSITORY} && mount --bind {hosts} /etc/hosts && exec "$0" "$@"'
    pods = []
    for number, node in enumerate(nodes):
        given = {"JOB_COMPLETION_INDEX": str(number)}
        if kind == "TrainJob":
            given = {"PET_NODE_RANK": str(number), "PET_MASTER_ADDR": head, "PET_MASTER_PORT": "29400",
                     "PET_NNODES": "2", "PET_NPROC_PER_NODE": "2"}  # fmt: skip
        command = ["unshare", "--mount", "sh", "-c", enter, *container["command"], script, "pod", *words]
        pods.append(node.start(command, {**environment(container), **given}))
    return pods


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["Job", "TrainJob"])
def test_the_pods_of_a_stopped_run_fail_and_their_successors_finish_it(
    kind: str, nodes: tuple[Node, Node], shards: Path, tmp_path: Path
) -> None:
    """Kubernetes starts a failed pod again, but no index whose pod has ended well."""
    directory, expected = tmp_path / "run", tmp_path / "expected"
    changes = ("run.steps=150", "train.deterministic=true", "metrics.port=null")
    pods = start_pods(kind, nodes, directory, settings(shards, directory, *changes))
    wait_for_step(directory, 20)
    pods[1].send_signal(signal.SIGTERM)
    for pod in pods:
        finished(pod, 1)
    assert (directory / "PREEMPTED").exists()
    for pod in start_pods(kind, nodes, directory, settings(shards, directory, *changes)):
        finished(pod)
    finished(torchrun(4, settings(shards, expected, *changes)))
    assert losses(directory) == losses(expected)
