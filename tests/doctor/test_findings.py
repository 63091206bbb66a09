"""The report of several ranks: what they found in the same way is said once, what differs with where it was found."""

from __future__ import annotations

import json

from alexnet_dist.doctor import findings as reports
from alexnet_dist.doctor.findings import Finding

DISK, FULL = Finding("disk", "ok", "70 GB free"), Finding("disk", "fail", "no space", "free some")
ALIKE = Finding("ranks", "ok", "4 ranks")
HOSTS, NODES = ["a", "a", "b", "b"], ["0", "0", "1", "1"]


def test_what_all_ranks_or_one_of_each_node_found_has_no_place() -> None:
    by_rank = [[DISK, ALIKE], [ALIKE], [DISK, ALIKE], [ALIKE]]
    assert reports.merge(by_rank, HOSTS, NODES) == [DISK, ALIKE]


def test_what_differs_is_told_with_its_place_and_in_the_order_of_the_checks() -> None:
    merged = reports.merge([[DISK, ALIKE], [ALIKE], [FULL, ALIKE], [ALIKE]], HOSTS, NODES)
    assert [(finding.check, finding.level, finding.where) for finding in merged] == [
        ("disk", "ok", "a, rank 0"),
        ("disk", "fail", "b, rank 2"),
        ("ranks", "ok", ""),
    ]
    both = reports.merge([[ALIKE], [FULL], [ALIKE], [FULL]], HOSTS, NODES)
    assert both[1].where == "a and b, ranks 1, 3"


def test_the_report_as_text_and_as_json() -> None:
    found = [DISK, FULL]
    assert reports.failures(found) == 1
    assert reports.table(found).splitlines() == [
        "ok    disk          70 GB free",
        "fail  disk          no space",
        "                    -> free some",
        "",
        "1 failed, 0 warnings, 1 ok",
    ]
    assert json.loads(reports.to_json(found))["failed"] == 1
    assert reports.load(reports.dump(found)) == found
