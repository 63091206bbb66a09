"""Names of files as they may be met: bytes that are not UTF-8 are made readable, for no JSON reader takes them."""

from __future__ import annotations

import os


def is_text(name: str) -> bool:
    """Tell whether a file's name is UTF-8; Python hands on one that is not with surrogates in it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(name: str) -> str:
    """Return a file name as text that any JSON reader takes: bytes that are not UTF-8 become \\xff and the like."""
    return os.fsencode(name).decode(errors="backslashreplace")
