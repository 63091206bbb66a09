"""The text of a sample's label, from its member in a shard."""

from __future__ import annotations

import json
import os

from alexnet_dist.pack import tars
from alexnet_dist.pack.sources.fields import SampleFields
from alexnet_dist.pack.sources.shard_members import LABEL_EXTENSION

LARGEST_LABEL_BYTES = 256
LARGEST_JSON_BYTES = 1 << 20


class LabelReader:
    """Reads the labels of an open shard."""

    def __init__(self, descriptor: int, fields: SampleFields) -> None:
        self._descriptor, self._json_key = descriptor, fields.json_key
        self.field = fields.label_member or LABEL_EXTENSION
        self._largest_bytes = LARGEST_LABEL_BYTES if self._json_key is None else LARGEST_JSON_BYTES

    def read(self, member: tars.Member) -> tuple[str, str | None]:
        """Return the text of a label, and why it cannot be used, or None."""
        if member.size_bytes > self._largest_bytes:
            return "", f"its .{self.field} has {member.size_bytes} bytes"
        data = os.pread(self._descriptor, member.size_bytes, member.offset)
        text = data.decode(errors="replace") if self._json_key is None else _value(data, self._json_key)
        if text is None:
            return "", f"its .{self.field} has no text or whole number {self._json_key!r}"
        text = text.strip()
        usable = text and "/" not in text and text.isprintable()
        return (text, None) if usable else ("", f"its .{self.field} is {text[:40]!r}")


def _value(data: bytes, key: str) -> str | None:
    """Return the text or whole number with this key in a JSON object; None if there is none."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    value = content.get(key) if isinstance(content, dict) else None
    # True is an int to Python, and no label.
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
