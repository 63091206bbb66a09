"""A claim of the paper or of its source, with what the code was found to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["holds", "deviates", "by test", "fails"]


@dataclass(frozen=True)
class Claim:
    """One claim. expected: of the paper or its source. found: what the code computed.

    section: of the audit, with the paper's number if it has one. source: the paper, or the source's file.
    where: file:function of the code, or of the test that shows the claim. note: why the code deviates.
    """

    section: str
    text: str
    source: str
    where: str
    expected: str
    found: str
    outcome: Outcome
    note: str = ""


@dataclass(frozen=True)
class Topic:
    """A section of the audit and its source: what makes claims of them.

    `where` is the function or class of the code that a claim is about.
    """

    section: str
    source: str

    def equal(self, text: str, where: Callable[..., Any], expected: object, found: object) -> Claim:
        """Return a claim that holds if what was found equals what is expected."""
        return self._claim(text, where, _format(expected), _format(found), expected == found)

    def close(self, text: str, where: Callable[..., Any], expected: float, found: float, tolerance: float) -> Claim:
        """Return a claim that holds if a number is within the tolerance, which is absolute."""
        return self._claim(text, where, _format(expected), _format(found), abs(found - expected) <= tolerance)

    def below(self, text: str, where: Callable[..., Any], limit: float, difference: float) -> Claim:
        """Return a claim that holds if a difference between two computations is below a limit."""
        return self._claim(text, where, f"below {limit:g}", f"{difference:.2g}", difference < limit)

    def deviates(
        self, text: str, where: Callable[..., Any], theirs: object, ours: object, found: object, note: str
    ) -> Claim:
        """Return a claim from which the code deviates as explained; it fails if the code does not do `ours`."""
        outcome: Outcome = "deviates" if found == ours else "fails"
        return Claim(
            self.section, text, self.source, _path(where), _format(theirs), _format(found), outcome,
            note if found == ours else f"Expected here: {_format(ours)}",
        )  # fmt: skip

    def by_test(self, text: str, expected: str, test: str) -> Claim:
        """Return a claim that a test shows, since it takes several processes or files; test: file:function."""
        return Claim(self.section, text, self.source, test, expected, "by a test", "by test")

    def deviates_by_test(self, text: str, theirs: str, ours: str, test: str, note: str) -> Claim:
        """Return a claim from which the code deviates as explained, as a test shows; test: file:function."""
        return Claim(self.section, text, self.source, test, theirs, ours, "deviates", note)

    def _claim(self, text: str, where: Callable[..., Any], expected: str, found: str, holds: bool) -> Claim:
        return Claim(self.section, text, self.source, _path(where), expected, found, "holds" if holds else "fails")


def _path(where: Callable[..., Any]) -> str:
    """Return file:name of a function or class."""
    return f"{where.__module__.replace('.', '/')}.py:{where.__qualname__}"


def _format(value: object) -> str:
    """Return a value as the table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        digits = ".0f" if abs(value) >= 1e6 else ".6g" if abs(value) >= 1e-6 else ".2g"
        return f"{value:,{digits}}"
    if isinstance(value, tuple | list):
        return " ".join(_format(item) for item in value) or "none"
    return str(value)
