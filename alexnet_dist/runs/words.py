"""Words for classes that are known by an id alone, such as n01440764, from a file that lists them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_dist.data.manifest import Class
from alexnet_dist.errors import UserError

FORMATS = 'lines of an id and its words, or JSON: {"n01440764": "tench"} or {"0": ["n01440764", "tench"]}'
LARGEST_BYTES = 1 << 26


def named_by(path: Path, classes: Sequence[Class]) -> tuple[list[str], int]:
    """Return a name for each class, with the words of a file where it has some, and for how many it has none.

    Raises UserError if the file cannot be read, is of another format, or has words for no class.
    """
    words = _read(path)
    missing = [described.name for described in classes if described.name not in words]
    if len(missing) == len(classes):
        raise UserError(f"{path}: has words for none of the {len(classes)} classes, such as {missing[0]}")
    return [words.get(described.name) or described.words or described.name for described in classes], len(missing)


def _read(path: Path) -> dict[str, str]:
    try:
        if not path.is_file():
            raise UserError(
                f"{path}: {'not a file' if path.exists() else 'No such file or directory'}; expected {FORMATS}"
            )
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(f"{path}: more than {LARGEST_BYTES:,} bytes; expected {FORMATS}")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: {reason}; expected {FORMATS}") from None
    if text.lstrip().startswith("{"):
        return _of_json(path, text)
    words = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, _, rest = line.strip().partition("\t" if "\t" in line.strip() else " ")
        if line.strip() and not rest.strip():
            raise UserError(f"{path}: line {number} is {line.strip()[:40]!r}; expected {FORMATS}")
        if line.strip():
            words[key.strip()] = rest.strip()
    return words


def _of_json(path: Path, text: str) -> dict[str, str]:
    try:
        values: dict[str, Any] = json.loads(text)
        words: dict[str, str] = dict(
            (value[0], value[1]) if isinstance(value, list) else (key, value) for key, value in values.items()
        )
        if not all(isinstance(part, str) for pair in words.items() for part in pair):
            raise ValueError
    except (ValueError, TypeError, IndexError, RecursionError):
        raise UserError(f"{path}: not such a JSON object; expected {FORMATS}") from None
    return words
