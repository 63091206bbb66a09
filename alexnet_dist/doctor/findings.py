"""What the doctor has found: one finding a check, and the report of all ranks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from alexnet_dist.errors import RunError, UserError
from alexnet_dist.system.wording import counted, noun

Level = Literal["ok", "warn", "fail"]
INDENT = 20  # characters before what was found


@dataclass(frozen=True)
class Finding:
    """The outcome of one check on one rank.

    found: what was found, and what was expected where that differs. advice: what to do; empty if all is well.
    where: the host and the ranks, on which it was found; empty on a single machine.
    """

    check: str
    level: Level
    found: str
    advice: str = ""
    where: str = ""


def failed(check: str, error: UserError | RunError) -> Finding:
    """Return an error as a finding: its last clause is what to do."""
    found, _, advice = str(error).rpartition("; ")
    return Finding(check, "fail", found or advice, advice if found else "")


def merge(by_rank: Sequence[Sequence[Finding]], hosts: Sequence[str], nodes: Sequence[str]) -> list[Finding]:
    """Return the findings of all ranks, each once, with where it was found unless that was everywhere.

    by_rank, hosts, nodes: by rank. The order of the checks is that in which they first occur.
    """
    ranks: dict[Finding, list[int]] = {}
    for rank, findings in enumerate(by_rank):
        for finding in findings:
            ranks.setdefault(finding, []).append(rank)
    checks = list(dict.fromkeys(finding.check for finding in ranks))
    firsts = [nodes.index(node) for node in dict.fromkeys(nodes)]  # some checks are made by the first rank of each node
    merged = []
    for finding, found_on in sorted(ranks.items(), key=lambda item: (checks.index(item[0].check), item[1])):
        everywhere = found_on in (list(range(len(by_rank))), firsts)
        where = "" if everywhere else _place(found_on, hosts)
        merged.append(replace(finding, where=finding.where or where))
    return merged


def _place(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    names = " and ".join(dict.fromkeys(hosts[rank] for rank in ranks))
    return f"{names}, {noun(len(ranks), 'rank')} {', '.join(map(str, ranks))}"


def failures(findings: Sequence[Finding]) -> int:
    """Return how many findings would end the run or make it wrong."""
    return sum(finding.level == "fail" for finding in findings)


def table(findings: Sequence[Finding]) -> str:
    """Return the report as text: a line for each finding, and what to do below those that are not ok."""
    lines = []
    for finding in findings:
        prefix = f"[{finding.where}] " if finding.where else ""
        lines.append(f"{finding.level:<6}{finding.check:<{INDENT - 6}}{prefix}{finding.found}")
        if finding.advice:
            lines.append(f"{'':<{INDENT}}-> {finding.advice}")
    return "\n".join([*lines, "", summary(findings)])


def summary(findings: Sequence[Finding]) -> str:
    """Return the counts of the levels in one line."""
    counts = {level: sum(finding.level == level for finding in findings) for level in ("ok", "warn", "fail")}
    return f"{counts['fail']} failed, {counted(counts['warn'], 'warning')}, {counts['ok']} ok"


def to_json(findings: Sequence[Finding]) -> str:
    """Return the report as one JSON object."""
    return json.dumps({"failed": failures(findings), "findings": [asdict(finding) for finding in findings]})


def dump(findings: Sequence[Finding]) -> str:
    """Return findings as text for another rank."""
    return json.dumps([asdict(finding) for finding in findings])


def load(text: str) -> list[Finding]:
    """Return the findings that another rank has dumped."""
    return [Finding(**fields) for fields in json.loads(text)]
