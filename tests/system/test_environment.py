"""The environment variables of torchrun, CUDA and the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from alexnet_dist.errors import UserError
from alexnet_dist.system.environment import (
    LaunchInfo,
    chosen_interface,
    launch_info,
    prepare_cuda,
    rendezvous_address,
    use_interface,
    write_error_file,
)


def test_without_torchrun_a_process_is_the_only_one() -> None:
    assert launch_info({}) == LaunchInfo(0, 1, 0, 1, under_torchrun=False)
    assert launch_info({"WORLD_SIZE": "2"}).under_torchrun is False


def test_torchrun_says_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert launch_info(torchrun) == LaunchInfo(5, 8, 1, 4, under_torchrun=True)
    optional = {"GROUP_RANK": "3", "NCCL_MULTI_RANK_GPU_ENABLE": "1"}
    assert launch_info(torchrun | optional) == LaunchInfo(
        5, 8, 1, 4, under_torchrun=True, node_rank=3, nccl_multi_rank=True
    )
    assert not launch_info(torchrun | {"NCCL_MULTI_RANK_GPU_ENABLE": "0"}).nccl_multi_rank
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    assert launch_info() == launch_info(torchrun)
    assert launch_info(dict(os.environ)) == launch_info(torchrun)
    assert launch_info({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}).local_world_size == 2


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("WORLD_SIZE", ""), ("LOCAL_RANK", "-1"), ("RANK", "²")])
def test_an_environment_that_is_not_torchruns_is_refused(name: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"environment: {name}='{value}'; expected a whole number, as"):
        launch_info({"RANK": "0", "WORLD_SIZE": "1", name: value})


def test_what_cuda_reads_is_set_unless_the_user_has_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "0")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    prepare_cuda()
    assert (os.environ["NCCL_LAUNCH_ORDER_IMPLICIT"], os.environ["CUBLAS_WORKSPACE_CONFIG"]) == ("0", ":16:8")
    monkeypatch.delenv("NCCL_LAUNCH_ORDER_IMPLICIT")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    prepare_cuda()
    assert (os.environ["NCCL_LAUNCH_ORDER_IMPLICIT"], os.environ["CUBLAS_WORKSPACE_CONFIG"]) == ("1", ":4096:8")


def test_the_rendezvous_is_read_and_a_missing_one_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node-a")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert rendezvous_address() == ("node-a", 29500)
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(UserError, match=r"MASTER_ADDR='node-a', MASTER_PORT=''; expected both, as torchrun sets them"):
        rendezvous_address()


def test_an_interface_is_used_unless_the_user_has_chosen_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "to be removed at the end")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    assert chosen_interface() == ""
    use_interface("eth0")
    use_interface("eth1")
    assert (chosen_interface(), os.environ["NCCL_SOCKET_IFNAME"]) == ("eth0", "ib0")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    use_interface("eth1")
    assert (chosen_interface(), os.environ["NCCL_SOCKET_IFNAME"]) == ("eth0", "=eth1")


def test_a_run_spans_nodes_when_this_one_has_a_part_of_its_ranks() -> None:
    assert launch_info({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}).spans_nodes
    assert not launch_info({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}).spans_nodes
    assert not launch_info({}).spans_nodes


def test_torchrun_reads_the_error_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "error.json"
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    write_error_file("nobody asks", 1.0)
    for value in ("", str(path)):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", value)
        write_error_file("rank 1 lost rank 2", 1234567.9)
    failure = ProcessFailure(local_rank=1, pid=2, exitcode=1, error_file=str(path))
    assert (failure.message, failure.timestamp) == ("rank 1 lost rank 2", 1234567)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_training_sets_how_threads_wait_before_torch_reads_it(chosen: dict[str, str], expected: str) -> None:
    code = (
        "import os, sys\n"
        "from alexnet_dist import train\n"
        "def seen(_main):\n"
        "    print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'), flush=True)\n"
        "    return 0\n"
        "train.run_command = seen\n"
        "train.run()\n"
    )
    variables = {name: text for name, text in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables | chosen, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"False {expected}\n"
