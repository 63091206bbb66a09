"""Checks that a source has all the parts that it says it has; gaps in numbers alone give a note.

A name such as ``train-00001-of-00003.parquet`` says how many parts there are, as do a devkit and a table of the images.
Such a statement is binding, and --allow-missing packs what is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from alexnet_dist.errors import UserError
from alexnet_dist.pack.sources.names import listed, readable

PART_OF = re.compile(r"(.*?)(\d+)-of-(\d+)(?!\d)(.*)", re.DOTALL)
NUMBERED = re.compile(r"(.*?)(\d+)(\.[A-Za-z.]+)", re.DOTALL)

MOST_NAMED = 100


class Completeness(NamedTuple):
    """missing: parts that a source names and lacks, of which the user knows. notes: what may be missing."""

    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_missing(
    where: Path, missing: Sequence[str], total: int, parts: str, allow_missing: bool, count: int | None = None
) -> tuple[str, ...]:
    """Return a statement of what is missing, if anything is; raises UserError unless that is allowed.

    parts: what the source says there are `total` of, such as "files of train-*-of-3". count: how many are missing, if
    `missing` has only the first of them.
    """
    if not missing:
        return ()
    count = len(missing) if count is None else count
    examples = listed(list(missing)) if count == len(missing) else f"such as {missing[0]}"
    statement = f"{count} of the {total} {parts}: {examples}"
    if not allow_missing:
        raise UserError(
            f"{where}: lacks {statement}. Put what is missing there, or pack what is there with --allow-missing"
        )
    return (f"{where.name}: {statement}",)


def check_parts(folder: Path, names: Sequence[str], allow_missing: bool) -> Completeness:
    """Check files that are numbered as parts, such as ``train-00000-of-00003.parquet``, or only numbered.

    Raises UserError for a part that is missing and not allowed to be, that is there twice, or that belongs to another
    number of parts, since such files would give the same images twice.
    """
    groups: dict[str, dict[int, dict[int, str]]] = {}
    loose: list[str] = []
    for name in names:
        match = PART_OF.fullmatch(name)
        if match is None:
            loose.append(name)
            continue
        parts = groups.setdefault(match[1], {}).setdefault(int(match[3]), {})
        other = parts.setdefault(int(match[2]), name)
        if other != name:
            raise UserError(f"{folder}: {readable(other)} and {readable(name)} are one part: remove one of them")
    missing: list[str] = []
    for prefix, totals in groups.items():
        if len(totals) > 1:
            first, second = (next(iter(parts.values())) for parts in list(totals.values())[:2])
            raise UserError(
                f"{folder}: {readable(first)} and {readable(second)} are parts of two versions of one set, and both "
                "would be packed: move one version away"
            )
        ((total, parts),) = totals.items()
        absent, what = _absent_parts(folder, total, parts), f"files of {readable(prefix)}*-of-{total}"
        missing += check_missing(folder, absent, total, what, allow_missing, total - len(parts))
    if groups and loose:
        part = next(iter(next(iter(next(iter(groups.values())).values())).values()))
        raise UserError(
            f"{folder}: {readable(loose[0])} lies beside {readable(part)}, which is a part of a complete set, and both "
            "would be packed: move one of them away"
        )
    notes = _gaps(folder, loose)
    if len(groups) > 1:
        sets = listed([f"{readable(prefix)}*-of-{next(iter(totals))}" for prefix, totals in groups.items()])
        notes.append(f"{folder}: {len(groups)} sets of files are all packed: {sets}. Move away what is not meant")
    return Completeness(tuple(missing), tuple(notes))


def _absent_parts(folder: Path, total: int, parts: dict[int, str]) -> list[str]:
    """Return the names of the first parts that are missing; the first is number 0, or 1 if the last is `total`."""
    first = int(total in parts)
    beyond = [name for number, name in parts.items() if not first <= number < first + total]
    if beyond:
        raise UserError(
            f"{folder}: {readable(beyond[0])} cannot be one of {total} parts numbered from {first}: remove or rename it"
        )
    example = next(iter(parts.values()))
    match = PART_OF.fullmatch(example)
    assert match is not None
    absent = (number for number in range(first, first + total) if number not in parts)
    return [
        f"{match[1]}{number:0{len(match[2])}}-of-{match[3]}{_ending(match[4])}" for number in islice(absent, MOST_NAMED)
    ]


def _ending(text: str) -> str:
    """Return the end of a part's name; some have a fingerprint, as in ``-of-00014-a9bb1a5dd4ea3f4b.parquet``."""
    return re.sub(r"^-[0-9a-f]{8,}", "-*", text)


def _gaps(folder: Path, names: Sequence[str]) -> list[str]:
    """Return a note for each row of numbered files that has gaps, or that begins above 1."""
    rows: dict[tuple[str, str], list[int]] = {}
    for name in names:
        match = NUMBERED.fullmatch(name)
        if match is not None and len(match[2]) < 10:
            rows.setdefault((match[1], match[3]), []).append(int(match[2]))
    notes = []
    for (prefix, suffix), numbers in rows.items():
        present, last = sorted(set(numbers)), max(numbers)
        first = min(present[0], 1)
        absent = last - first + 1 - len(present)
        # One file with a large number, as in train-2012.tar, is no row.
        if absent and (len(present) > 1 or last < 1000):
            expected = enumerate(present, start=first)
            example = next((number for number, actual in expected if number != actual), first + len(present))
            notes.append(
                f"{folder}: the numbers of {readable(prefix)}*{suffix} have gaps, such as {example} ({absent} up to "
                f"{last}): if these files exist, put them there"
            )
    return notes
