"""Numbers in printed sentences: counts with the form of their noun, and errors in per cent."""

from __future__ import annotations


def noun(number: int, singular: str) -> str:
    """Return the form of a regular noun that follows a number: image or images, batch or batches."""
    if number == 1:
        return singular
    return singular + ("es" if singular.endswith(("s", "ch", "x")) else "s")


def counted(number: int, singular: str) -> str:
    """Return a number and its noun, such as 1 replica or 1,024 ranks."""
    return f"{number:,} {noun(number, singular)}"


def percent(fraction: float) -> str:
    """Return an error or a share of images, such as 40.70%; files keep the fraction."""
    return f"{fraction:.2%}"
