"""The audit as text: a table by section, the deviations with their reasons, and a summary."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from alexnet_dist.paper.audit.claims import Claim

WIDTH = 120
MARKS = {"holds": "=", "deviates": "~", "by test": "t", "fails": "!"}
COLUMNS = (40, 17, 17)  # characters of the claim, of what is expected and of what is found


def table(claims: Sequence[Claim]) -> str:
    """Return the whole text, in lines of at most 120 characters."""
    lines = [
        "What the paper and its source say, and what this code does (paths are below alexnet_dist/).",
        "Statistics of random draws hold if they are within five standard errors of what is expected.",
        "Claims about errors, times and hardware take training and are not here: see PAPER.md.",
        "",
        "= holds    ~ deviates, as explained below    t shown by a test, named below    ! fails",
        "",
        _line(" ", "claim", "expected", "found", "where"),
    ]
    for (section, source), group in groupby(claims, lambda claim: (claim.section, claim.source)):
        lines += ["", f"{section} ({source})"]
        for claim in group:
            where = "" if claim.where.startswith("tests/") else claim.where.removeprefix("alexnet_dist/")
            lines.append(_line(MARKS[claim.outcome], claim.text, claim.expected, claim.found, where))
    for outcome, title in (("deviates", "Deviations"), ("by test", "Shown by tests"), ("fails", "FAILED")):
        chosen = [claim for claim in claims if claim.outcome == outcome]
        if chosen:
            lines += ["", title]
        for note, same in groupby(chosen, lambda claim: claim.note):
            lines += _details(note, list(same))
    return "\n".join([*lines, "", summary(claims)])


def json_lines(claims: Sequence[Claim]) -> str:
    """Return one JSON object a line."""
    return "\n".join(json.dumps(asdict(claim), ensure_ascii=False) for claim in claims)


def summary(claims: Sequence[Claim]) -> str:
    """Return the numbers of claims by outcome."""
    counts = {outcome: sum(claim.outcome == outcome for claim in claims) for outcome in MARKS}
    return (
        f"{len(claims)} claims: {counts['holds']} hold, {counts['deviates']} deviate (explained),"
        f" {counts['by test']} shown by tests, {counts['fails']} fail"
    )


def _line(mark: str, *cells: str) -> str:
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, COLUMNS, strict=False)]
    return " ".join([mark, *padded, cells[-1]]).rstrip()


def _details(note: str, claims: Sequence[Claim]) -> list[str]:
    """Return what the table has no room for, of claims with one note; without a note, of each of them."""
    lines: list[str] = []
    if note:
        head = f"{MARKS[claims[0].outcome]} {'; '.join(claim.text for claim in claims)}. "
        lines += textwrap.wrap(head + note, WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    for claim in claims:
        if not note:
            lines.append(f"{MARKS[claim.outcome]} {claim.text}")
        if claim.outcome == "fails" and not note:
            lines.append(f"    expected {claim.expected}, found {claim.found}: {claim.where}")
        elif claim.where.startswith("tests/"):
            lines.append(f"    {claim.where}")
    return lines
