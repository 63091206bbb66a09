"""The named configurations: the files of configs/, which the wheel contains too, so that no checkout is needed.

The name of a file is its path in configs/ without .yaml, such as paper or variants/large_batch.
"""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parent / "configs"  # in a checkout a link to configs/, in an installed package a copy
SUFFIXES = (".yaml", ".yml")


def names() -> list[str]:
    """Return the names of all named configurations, sorted."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))


def locate(path: Path) -> Path:
    """Return the named configuration's file if path is a name, else path. A path of an existing file is not a name."""
    if path.suffix in SUFFIXES or (path.exists() and not path.is_dir()) or path.as_posix() not in names():
        return path
    return FOLDER / f"{path}.yaml"


def not_found(path: Path) -> str:
    """Return the message for a path that is neither a file nor a name, with the most similar name if there is one."""
    if path.suffix in SUFFIXES:
        name, reason = path.with_suffix(""), "expected a YAML file, but it cannot be read: No such file or directory"
    else:
        name, reason = path, f"no such file; expected a YAML file or a named configuration: {_overview()}"
    similar = difflib.get_close_matches(name.as_posix().removeprefix("configs/"), names(), 1)
    return f"{reason}; did you mean --config {similar[0]}?" if similar else reason


def _overview() -> str:
    """Return the names, those in folders as the folder and their number."""
    folders = Counter(name.rpartition("/")[0] for name in names())
    plain = [name for name in names() if "/" not in name]
    return ", ".join(plain + [f"{folder}/* ({count})" for folder, count in sorted(folders.items()) if folder])
