"""Process set-up: launch information, signals, parent death and memory, tested in subprocesses."""

from __future__ import annotations

import os
import platform
import signal
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from alexnet_dist.errors import UserError
from alexnet_dist.process import (
    LaunchInfo,
    available_memory_bytes,
    chosen_interface,
    launch_info,
    prepare_cuda,
    rendezvous_address,
    use_interface,
    write_error_file,
)
from support.programs import WAIT_IN_C, read_line, running


def test_a_child_dies_with_its_parent() -> None:
    child = f"""
import os, signal
from alexnet_dist.process import die_with_parent
from alexnet_dist.signals import ignore_signals
ignore_signals((signal.SIGTERM, signal.SIGINT))
die_with_parent(os.getppid())
{WAIT_IN_C}"""
    parent = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(60)"
    with running(parent, child) as process:
        assert read_line(process) == "waiting"  # from the child, which writes to the same pipe
        process.send_signal(signal.SIGKILL)
        # The pipe reaches its end when its last writer, the child, has died.
        assert process.communicate(timeout=10) == ("", "")


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    program = (
        "import os; from alexnet_dist.process import die_with_parent; die_with_parent(os.getpid()); print('alive')"
    )
    with running(program) as process:
        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == 1


def test_a_process_goes_on_while_its_parent_lives() -> None:
    program = (
        "import os; from alexnet_dist.process import die_with_parent; die_with_parent(os.getppid()); print('alive')"
    )
    with running(program) as process:
        assert process.communicate(timeout=10) == ("alive\n", "")
        assert process.returncode == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_kept() -> None:
    program = """
import resource, sys
from alexnet_dist.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
b"x" * (64 << 20)
first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    bytes(range(256)) * (64 << 12)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)"""
    faults = {}
    for setting in ("keep", "default"):
        with running(program, setting) as process:
            faults[setting] = int(process.communicate(timeout=20)[0])
    assert faults["keep"] < 100  # 64 MiB are 16,384 pages, or 32 huge ones
    assert faults["default"] >= 3 * 32


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


SIBLINGS = """
import os, signal, subprocess, sys, time
child = "import sys; from alexnet_dist.process import sibling_state; print(sibling_state(int(sys.argv[1])))"
def state(process):
    print(subprocess.run([sys.executable, "-c", child, str(process)], capture_output=True, text=True).stdout.strip())
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
state(other.pid)
os.kill(other.pid, signal.SIGSTOP); time.sleep(0.2)
state(other.pid)
os.kill(other.pid, signal.SIGKILL); time.sleep(0.2)
state(other.pid)
other.wait()
state(other.pid)
failed = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]); time.sleep(1)
state(failed.pid)
state(1)
"""


def test_the_state_of_a_sibling_is_seen() -> None:
    with running(SIBLINGS) as process:
        said, _ = process.communicate(timeout=30)
    # Process 1 has another parent.
    assert said.split("\n")[:-1] == ["running", "stopped", "signal 9", "gone", "exit code 3", "gone"]


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has /proc/meminfo")
def test_the_available_memory_is_at_most_the_machines() -> None:
    available = available_memory_bytes()
    assert available is not None
    assert 0 < available < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_torchrun_reads_the_error_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "error.json"
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    write_error_file("nobody asks", 1.0)
    for value in ("", str(path)):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", value)
        write_error_file("rank 1 lost rank 2", 1234567.9)
    failure = ProcessFailure(local_rank=1, pid=2, exitcode=1, error_file=str(path))
    assert (failure.message, failure.timestamp) == ("rank 1 lost rank 2", 1234567)
