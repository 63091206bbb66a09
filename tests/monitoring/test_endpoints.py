"""The addresses of a rank's metrics, as targets.json and the printed URLs contain them."""

from __future__ import annotations

import json
import platform
import socket
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from alexnet_dist.distributed.control import Control
from alexnet_dist.monitoring.targets import endpoint
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.training.train import open_metrics
from support.runs import context, settings


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as server:
            server.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", "127.0.0.1:9410"),
        ("localhost", "localhost:9410"),
        ("::1", "[::1]:9410"),
        ("fe80::1", "[fe80::1]:9410"),
        *((address, f"{platform.node()}:9410") for address in ("0.0.0.0", "::", "0:0:0:0:0:0:0:0")),
    ],
)
def test_an_ipv6_host_has_brackets_and_all_addresses_are_the_machine(address: str, expected: str) -> None:
    assert endpoint(address, 9410) == expected


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("address", ["::1", "[::1]"])
def test_what_is_printed_and_written_of_an_ipv6_address_can_be_read(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings("metrics.port=0", f"metrics.address={address}", f"run.directory={tmp_path}")
    metrics = open_metrics(context(config), Control(None))
    try:
        (group,) = json.loads((tmp_path / run_directory.TARGETS).read_text())
        (target,) = group["targets"]
        assert target.startswith("[::1]:")
        assert capsys.readouterr() == (f"metrics: http://{target}/metrics\n", "")
        with build_opener(ProxyHandler({})).open(f"http://{target}/metrics") as response:
            assert b"alexnet_train_steps_total" in response.read()
    finally:
        metrics.close()


@pytest.mark.parametrize("starts", [0, 1, 3])  # 0: not known
def test_a_run_shows_how_often_it_was_started_again(starts: int, tmp_path: Path) -> None:
    for _ in range(starts):
        run_directory.begin(tmp_path, 0, 0, "", {})
        run_directory.note_start(tmp_path, {})
    metrics = open_metrics(context(settings("metrics.port=null", f"run.directory={tmp_path}")), Control(None))
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    assert [sample.value for sample in samples if sample.name == "alexnet_train_restarts"] == [max(0, starts - 1)]
