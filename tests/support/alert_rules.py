"""The alert rules as tests query them: without their comparisons, and with minutes that last a second."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from support.prometheus_server import MONITORING, Query

RULES = MONITORING / "alerts.yml"
# Between two operands is an operator, with how series are matched. Strings and words are tokens of no interest.
_TOKEN = re.compile(
    r"""(?P<string>"[^"]*"|'[^']*')
    |(?P<operator>
        (?:==|!=|<=|>=|<|>|\b(?:and|or|unless)\b)
        (?:\s*\bbool\b)?
        (?:\s*\b(?:on|ignoring|group_left|group_right)\s*\([^)]*\))*
    )
    |(?P<opening>[({\[])|(?P<closing>[)}\]])
    |\w+|.""",
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"[-+.\d]+(?:e[-+]?\d+)?")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def operands(expression: str) -> list[str]:
    """Return what an alert compares or combines: expressions that have values also while the alert is silent.

    Splits at comparisons and at and, or, unless, outside all brackets but those around a whole operand; numbers are
    left out.
    """
    found = []
    for part in _split(expression):
        if _NUMBER.fullmatch(part):
            continue
        inside = part[1:-1] if part.startswith("(") and _closes_at_end(part) else ""
        found += operands(inside) if inside else [part]
    return found


def _split(expression: str) -> Iterator[str]:
    depth = begin = 0
    for token in _TOKEN.finditer(expression):
        depth += bool(token["opening"]) - bool(token["closing"])
        if token["operator"] and depth == 0:
            yield expression[begin : token.start()].strip()
            begin = token.end()
    yield expression[begin:].strip()


def _closes_at_end(expression: str) -> bool:
    """Return whether the first bracket is closed by the last character."""
    depth = 0
    for token in _TOKEN.finditer(expression):
        depth += bool(token["opening"]) - bool(token["closing"])
        if depth == 0:
            return token.end() == len(expression)
    return False


def faster(text: str) -> str:
    """Return an expression or a duration whose durations are a sixtieth of what they are: [5m] becomes [5s]."""
    return re.sub(r"\b(\d+)([smhd])\b", lambda found: f"{int(found[1]) * _UNITS_S[found[2]] * 1000 // 60}ms", text)


def with_sooner_limits(expression: str) -> str:
    """Return an expression whose limits of seconds, since a time or ahead, are a sixtieth of what they are."""
    sooner = re.sub(r"(?s)(\btime\(\) - .*? > )(\d+)", lambda found: f"{found[1]}{int(found[2]) / 60:g}", expression)
    return sooner.replace(" 3600)", " 60)")


def alerts() -> dict[str, dict[str, Any]]:
    """Return the rules by name."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def alert_queries() -> list[Query]:
    """Return the operands of all alerts, a minute as a second; the first has the labels that the annotations name."""
    queries = []
    for name, rule in alerts().items():
        labels = frozenset(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        for index, operand in enumerate(operands(faster(rule["expr"]))):
            queries.append(Query(name, operand, frozenset() if index else labels))
    return queries


def write_faster_rules(
    path: Path, sooner_limits: bool = False, instead: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> None:
    """Write the rules so that an alert fires after as many seconds as it has minutes; thresholds are as they are.

    sooner_limits: those of seconds are a sixtieth as well. instead: what an alert has in place of that, by its name.
    """
    rules = []
    for name, rule in alerts().items():
        expression = with_sooner_limits(rule["expr"]) if sooner_limits else rule["expr"]
        rule |= {"expr": faster(expression)} | ({"for": faster(rule["for"])} if "for" in rule else {})
        rules.append({**rule, **instead.get(name, {})})
    path.write_text(yaml.safe_dump({"groups": [{"name": "alexnet", "rules": rules}]}))
