"""A machine's memory: freed blocks are kept, and what is available."""

from __future__ import annotations

import os
import platform

import pytest

from alexnet_dist.system.resources import available_memory_bytes
from support.programs import running


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_kept() -> None:
    program = """
import resource, sys
from alexnet_dist.system.resources import keep_freed_memory
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


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has /proc/meminfo")
def test_the_available_memory_is_at_most_the_machines() -> None:
    available = available_memory_bytes()
    assert available is not None
    assert 0 < available < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
