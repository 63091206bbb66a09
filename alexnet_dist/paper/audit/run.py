"""All claims of the audit, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from alexnet_dist.data.transform import one_thread
from alexnet_dist.errors import RunError
from alexnet_dist.paper.audit import (
    count_claims,
    data_claims,
    evaluation_claims,
    initial_claims,
    learning_claims,
    link_claims,
    net_claims,
    norm_claims,
    schedule_claims,
    tower_claims,
)
from alexnet_dist.paper.audit.claims import Claim
from alexnet_dist.paper.audit.table import json_lines, summary, table

GROUPS: tuple[Callable[[], Iterator[Claim]], ...] = (
    data_claims.image_claims,
    net_claims.claims,
    norm_claims.claims,
    count_claims.claims,
    link_claims.claims,
    tower_claims.claims,
    data_claims.augmentation_claims,
    evaluation_claims.claims,
    learning_claims.claims,
    initial_claims.claims,
    schedule_claims.claims,
)


def audit(groups: Sequence[Callable[[], Iterator[Claim]]] = GROUPS) -> list[Claim]:
    """Return the claims of the groups, each compared with what the code does."""
    # The computations are small, and two of them run in threads: more threads of torch would wait for each other.
    with one_thread():
        return [claim for group in groups for claim in group()]


def run_audit(as_json: bool) -> None:
    """Print the audit; RunError if a claim fails."""
    claims = audit(GROUPS)
    print(json_lines(claims) if as_json else table(claims), flush=True)
    failed = [claim for claim in claims if claim.outcome == "fails"]
    if failed:
        names = "; ".join(claim.text for claim in failed)
        raise RunError(f"{summary(claims)}: {names}; expected none to fail: the code or PAPER.md is wrong")
