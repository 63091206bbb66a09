"""The devices of a machine, and what connects the two of a pair."""

from __future__ import annotations

import re
import shutil
import subprocess

import torch

from alexnet_dist.distributed.topology import Topology
from alexnet_dist.doctor.findings import Finding
from alexnet_dist.system.wording import counted

SMI_S = 10
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")  # around its headers
# What `nvidia-smi topo -m` calls a path between two devices.
PATHS = {
    "NV": "NVLink",
    "PIX": "one PCIe switch",
    "PXB": "several PCIe switches",
    "PHB": "the PCIe host bridge of one CPU",
    "NODE": "PCIe within a NUMA node",
    "SYS": "PCIe and the link between CPUs",
}


def devices(topology: Topology, local_ranks: int) -> Finding:
    """Name this rank's device and, for a pair on two CUDA devices, whether they reach each other directly."""
    if topology.device.type == "cpu":
        return Finding(
            "device", "ok", f"CPU, {counted(torch.get_num_threads(), 'thread')} a rank; {_layout(topology)} over gloo"
        )
    own = topology.device.index or 0
    name = torch.cuda.get_device_name(own)
    ranks = counted(local_ranks, "rank")
    found = f"{name}, {torch.cuda.device_count()} for {ranks}; {_layout(topology)} over {topology.backend}"
    if topology.layout != "paired" or topology.backend != "nccl":
        return Finding("device", "ok", found)
    other = (topology.local_rank ^ 1) % torch.cuda.device_count()
    if other == own:
        return Finding(
            "device", "warn", f"{found}; both towers of a pair share it", "give each rank a device of its own"
        )
    path = path_between(smi("topo", "-m"), *_physical(own, other))
    found += f"; devices {min(own, other)} and {max(own, other)}: {path}"
    if not torch.cuda.can_device_access_peer(own, other):
        return Finding(
            "device",
            "warn",
            f"{found}, without peer access: the towers' exchanges go through host memory",
            "pair devices that are connected by NVLink or one PCIe switch with CUDA_VISIBLE_DEVICES; if they are,"
            " disable ACS in the BIOS",
        )
    return Finding("device", "ok", f"{found}, with peer access")


def _layout(topology: Topology) -> str:
    return "one tower a rank" if topology.layout == "paired" else "all towers in one rank"


def smi(*words: str) -> str:
    """Return what nvidia-smi prints, or an empty text."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    try:
        done = subprocess.run([command, *words], capture_output=True, text=True, timeout=SMI_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _physical(*devices: int) -> list[int]:
    """Return nvidia-smi's numbers of devices, which CUDA_VISIBLE_DEVICES numbers anew; -1 for an unknown one."""
    rows = [line.split(", ") for line in smi("--query-gpu=index,uuid", "--format=csv,noheader").splitlines()]
    numbers = {row[1].removeprefix("GPU-"): int(row[0]) for row in rows if len(row) == 2}
    return [numbers.get(str(torch.cuda.get_device_properties(device).uuid), -1) for device in devices]


def path_between(text: str, left: int, right: int) -> str:
    """Return what connects two devices, from the table of `nvidia-smi topo -m`."""
    rows = [line.split("\t") for line in ESCAPE.sub("", text).splitlines() if "\t" in line]
    columns = next((row for row in rows if f"GPU{right}" in [cell.strip() for cell in row[1:]]), [])
    names = [cell.strip() for cell in columns]
    for row in rows:
        if row[0].strip() == f"GPU{left}" and f"GPU{right}" in names and len(row) > names.index(f"GPU{right}"):
            cell = row[names.index(f"GPU{right}")].strip()
            kind = cell.rstrip("0123456789")
            return f"{PATHS.get(kind, 'unknown path')} ({cell})"
    return "path unknown (nvidia-smi topo -m does not say)"
