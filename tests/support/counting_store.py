"""A rendezvous store in this process that counts what crosses it."""

from __future__ import annotations

import threading
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import Store


class CountingStore(Store):
    """A store in this process that counts the bytes that cross it."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, bytes] = {}
        self.bytes = 0
        self._changed = threading.Condition()

    def set(self, key: str, value: bytes | str) -> None:
        data = value.encode() if isinstance(value, str) else bytes(value)
        with self._changed:
            self.values[key] = data
            self.bytes += len(key) + len(data)
            self._changed.notify_all()

    def get(self, key: str) -> bytes:
        with self._changed:
            self.bytes += len(key) + len(self.values[key])
            return self.values[key]

    def check(self, keys: list[str]) -> bool:
        with self._changed:
            self.bytes += sum(map(len, keys))
            return all(key in self.values for key in keys)

    def wait(self, keys: list[str], timeout: timedelta = timedelta(seconds=30)) -> None:
        with self._changed:
            self.bytes += sum(map(len, keys))
            if not self._changed.wait_for(lambda: all(key in self.values for key in keys), timeout.total_seconds()):
                raise dist.DistStoreError("wait timeout")
