"""The files for containers and clouds, read without their tools: images are pinned, and what they name exists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from alexnet_dist.config.sections import MetricsConfig
from support.prometheus_server import MONITORING
from support.training import REPOSITORY

DOCKER = REPOSITORY / "launch" / "docker"
SKYPILOT = REPOSITORY / "launch" / "skypilot" / "train.yaml"


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile: each one's name and the rest, with its lines joined."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines()]


def test_the_image_is_pinned_and_runs_as_nobody_in_particular() -> None:
    found = instructions(DOCKER / "Dockerfile")
    assert [rest for name, rest in found if name == "FROM"] == ["python:${PYTHON} AS build", "python:${PYTHON} AS run"]
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", dict(found[:1])["ARG"])
    names = [name for name, _ in found]
    users = [rest for name, rest in found if name == "USER"]
    assert users == ["10001:10001"]
    assert names.index("USER") > max(number for number, name in enumerate(names) if name == "COPY")
    (check,) = (rest for name, rest in found if name == "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    compile(command[2], "HEALTHCHECK", "exec")
    assert f"127.0.0.1:{MetricsConfig().port}/metrics" in command[2]


def test_docker_is_sent_what_the_image_copies_and_nothing_else() -> None:
    admitted = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [rest.split()[:-1] for name, rest in instructions(DOCKER / "Dockerfile") if name == "COPY"]
    sources = {source for group in copied if not group[0].startswith("--from") for source in group}
    assert sources == admitted
    assert all((REPOSITORY / source).exists() for source in sources)


def test_the_image_installs_what_the_constraints_pin() -> None:
    """The layer of torch takes its versions from constraints.txt, line by line."""
    (torch_layer,) = (rest for name, rest in instructions(DOCKER / "Dockerfile") if "TORCH_INDEX:+" in rest)
    commands = re.findall(r"\$\((grep [^)]+)\)", torch_layer)
    pins = [subprocess.check_output(["sh", "-c", command], cwd=REPOSITORY, text=True) for command in commands]
    assert [re.sub(r"==[\d.]+\n", "", pin) for pin in pins] == ["torch", "numpy"]


def services() -> dict[str, dict[str, Any]]:
    """Return the services of the Compose file by name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((MONITORING / "compose.yaml").read_text())["services"]
    return found


def test_compose_pins_its_images_and_mounts_what_exists() -> None:
    assert set(services()) == {"prometheus", "alertmanager", "grafana"}
    for name, service in services().items():
        assert re.fullmatch(rf"\w+/{name}:v?\d+\.\d+\.\d+", service["image"])
        assert service["network_mode"] == "host"  # the ranks serve their metrics on 127.0.0.1
        for volume in service["volumes"]:
            if volume["type"] != "bind" or volume["source"].endswith("runs"):
                continue
            assert volume["read_only"], volume
            assert (MONITORING / volume["source"]).exists(), f"{name} mounts a file that is missing: {volume['source']}"


def test_compose_listens_on_this_machine_only() -> None:
    found = services()
    for name, port in (("prometheus", 9090), ("alertmanager", 9093)):
        assert f"--web.listen-address=127.0.0.1:{port}" in found[name]["command"]
    assert "--cluster.listen-address=" in found["alertmanager"]["command"]
    assert found["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_prometheus_finds_the_runs_where_compose_mounts_them() -> None:
    (config,) = (word for word in services()["prometheus"]["command"] if word.startswith("--config.file="))
    path = Path(config.partition("=")[2])
    mounts = {Path(volume["target"]): volume["source"] for volume in services()["prometheus"]["volumes"]}
    assert mounts[path.parent] == "."
    scraped = yaml.safe_load((MONITORING / path.name).read_text())["scrape_configs"][0]["file_sd_configs"][0]["files"]
    runs = {(path.parent / each).parents[1].as_posix() for each in scraped}
    assert {str(Path(*_without_dots(Path(each)))) for each in runs} == {"/checkout/runs"}
    assert mounts[Path("/checkout/runs")] == "../../runs"


def _without_dots(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return parts


def test_grafana_is_provisioned_with_the_dashboard_and_its_source() -> None:
    grafana = services()["grafana"]
    mounts = {volume["source"]: volume["target"] for volume in grafana["volumes"]}
    for kind in ("datasources", "dashboards"):
        assert mounts[f"grafana/{kind}.yaml"] == f"/etc/grafana/provisioning/{kind}/alexnet.yaml"
    (source,) = yaml.safe_load((MONITORING / "grafana" / "datasources.yaml").read_text())["datasources"]
    prometheus = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://127.0.0.1:9090", True)
    (provider,) = yaml.safe_load((MONITORING / "grafana" / "dashboards.yaml").read_text())["providers"]
    assert mounts["dashboard.json"] == f"{provider['options']['path']}/dashboard.json"
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == mounts["dashboard.json"]
    # Provisioned dashboards have nobody to ask for inputs: the data source is a variable.
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    assert not dashboard.get("__inputs")
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["query"] == source["type"]


def test_skypilot_starts_one_agent_a_node() -> None:
    task = yaml.safe_load(SKYPILOT.read_text())
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)
    assert int(task["resources"]["accelerators"].partition(":")[2]) % 2 == 0
    assert task["envs"]["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == task["envs"]["NCCL_LAUNCH_ORDER_IMPLICIT"] == "1"
    assert (REPOSITORY / task["envs"]["CONFIG"]).exists()
    given = {"CONFIG", "DATA_ROOT", "RUN"} | {f"SKYPILOT_{name}" for name in ("NODE_IPS", "NODE_RANK")}
    given |= {"SKYPILOT_NUM_NODES", "SKYPILOT_NUM_GPUS_PER_NODE"}
    assert set(re.findall(r"\$([A-Z_]+)", task["run"])) == given
