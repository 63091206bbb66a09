"""The devices of a machine, and what connects the two of a pair."""

from __future__ import annotations

import shutil
import subprocess

import torch

from alexnet_dist.distributed.topology import Topology
from alexnet_dist.doctor.findings import Finding

TOPOLOGY_S = 10
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
            "device", "ok", f"CPU, {torch.get_num_threads()} thread(s) a rank; {_layout(topology)} over gloo"
        )
    own = topology.device.index or 0
    name = torch.cuda.get_device_name(own)
    found = (
        f"{name}, {torch.cuda.device_count()} for {local_ranks} rank(s); {_layout(topology)} over {topology.backend}"
    )
    if topology.layout != "paired" or topology.backend != "nccl":
        return Finding("device", "ok", found)
    other = own ^ 1
    found += f"; devices {min(own, other)} and {max(own, other)}: {path_between(smi_topology(), own, other)}"
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


def smi_topology() -> str:
    """Return what `nvidia-smi topo -m` prints, or an empty text."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    try:
        done = subprocess.run([command, "topo", "-m"], capture_output=True, text=True, timeout=TOPOLOGY_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def path_between(text: str, left: int, right: int) -> str:
    """Return what connects two devices, from the table of `nvidia-smi topo -m`."""
    rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
    columns = next((row for row in rows if f"GPU{right}" in [cell.strip() for cell in row[1:]]), [])
    names = [cell.strip() for cell in columns]
    for row in rows:
        if row[0].strip() == f"GPU{left}" and f"GPU{right}" in names and len(row) > names.index(f"GPU{right}"):
            cell = row[names.index(f"GPU{right}")].strip()
            kind = cell.rstrip("0123456789")
            return f"{PATHS.get(kind, 'unknown path')} ({cell})"
    return "path unknown (nvidia-smi topo -m does not tell)"
