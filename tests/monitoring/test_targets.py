"""The file that tells Prometheus where the ranks of a run are, also on several nodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from alexnet_dist.distributed import network
from alexnet_dist.distributed.control import Control
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.monitoring.targets import (
    Target,
    endpoint,
    is_loopback,
    reachable,
    remove_targets,
    unreachable_warning,
    write_targets,
)
from alexnet_dist.runs import directory as run_directory
from alexnet_dist.training.train import open_metrics
from support.runs import context, settings

# Two nodes with two ranks each, as they serve by default and with metrics.address=0.0.0.0.
LOOPBACK = [Target(rank // 2, f"node-{rank // 2}", f"127.0.0.1:{9410 + rank % 2}", True) for rank in range(4)]
OPEN = [replace(each, endpoint=f"10.0.0.{each.node}:{9410 + rank % 2}", is_local=False)
        for rank, each in enumerate(LOOPBACK)]  # fmt: skip


def written(path: Path, targets: Sequence[Target]) -> list[dict[str, object]]:
    write_targets(path, targets)
    groups: list[dict[str, object]] = json.loads(path.read_text())
    return groups


def test_each_node_is_a_group_with_its_name(tmp_path: Path) -> None:
    assert written(tmp_path / "targets.json", reachable(OPEN)) == [
        {"targets": ["10.0.0.0:9410", "10.0.0.0:9411"], "labels": {"node": "node-0"}},
        {"targets": ["10.0.0.1:9410", "10.0.0.1:9411"], "labels": {"node": "node-1"}},
    ]
    assert unreachable_warning(OPEN) == ""


def test_a_loopback_address_of_another_node_is_not_listed_and_the_warning_says_what_to_set(tmp_path: Path) -> None:
    assert written(tmp_path / "targets.json", reachable(LOOPBACK)) == [
        {"targets": ["127.0.0.1:9410", "127.0.0.1:9411"], "labels": {"node": "node-0"}}
    ]
    warning = unreachable_warning(LOOPBACK)
    assert warning.startswith("the metrics of 2 of 4 ranks (on node-1) are served on a loopback address")
    assert "set metrics.address=0.0.0.0 on all nodes" in warning


def test_a_warning_of_no_password_is_for_those_who_have_none() -> None:
    assert "they have no password" in unreachable_warning(LOOPBACK)
    assert unreachable_warning(LOOPBACK, has_password=True).endswith("set metrics.address=0.0.0.0 on all nodes")


def test_ranks_over_tls_have_their_scheme_and_others_are_left_to_prometheus(tmp_path: Path) -> None:
    secure = [replace(each, scheme="https") for each in OPEN]
    assert secure[0].url == "https://10.0.0.0:9410/metrics"
    first, second = written(tmp_path / "targets.json", [*OPEN[:2], *secure[2:]])
    assert first["labels"] == {"node": "node-0"}
    assert second["labels"] == {"node": "node-1", "__scheme__": "https"}
    split = written(tmp_path / "targets.json", [OPEN[0], secure[1]])
    assert [group["targets"] for group in split] == [["10.0.0.0:9410"], ["10.0.0.0:9411"]]


def test_one_node_may_serve_on_loopback_and_another_not() -> None:
    mixed = [*LOOPBACK[:2], *OPEN[2:]]
    assert reachable(mixed) == mixed
    assert unreachable_warning(mixed) == ""
    assert reachable([*OPEN[:2], *LOOPBACK[2:]]) == OPEN[:2]


def test_nodes_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    groups = written(tmp_path / "targets.json", [replace(each, host="node") for each in OPEN])
    assert [group["labels"] for group in groups] == [{"node": "node"}] * 2


def test_a_rank_that_serves_nothing_is_neither_listed_nor_counted_as_missed() -> None:
    silent = [replace(each, endpoint="") for each in LOOPBACK]
    assert reachable(silent) == []
    assert unreachable_warning(silent) == ""
    assert reachable([silent[0], LOOPBACK[1]]) == [LOOPBACK[1]]


def test_the_warning_names_few_of_many_nodes() -> None:
    many = [Target(number, f"node-{number}", "127.0.0.1:9410", True) for number in range(9)]
    assert "the metrics of 8 of 9 ranks (on node-1, node-2, node-3, node-4 and 4 more)" in unreachable_warning(many)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("10.0.0.1", False), ("999.1.1.1", False), ("a..b", False)],
)  # fmt: skip
def test_loopback_is_seen_by_number_and_by_name(address: str, expected: bool) -> None:
    assert is_loopback(address) == expected


def test_a_server_on_all_addresses_is_named_by_the_one_that_reaches_it() -> None:
    assert endpoint("0.0.0.0", 9410, "10.0.0.7") == "10.0.0.7:9410"
    assert endpoint("::", 9410, "fd00::7") == "[fd00::7]:9410"
    assert endpoint("192.0.2.1", 9410, "10.0.0.7") == "192.0.2.1:9410"


class Gathered(Control):
    """What connects this rank to others, whose texts are given."""

    def __init__(self, others: Sequence[Target]) -> None:
        """Take the targets of the ranks from 1 on."""
        super().__init__(None)
        self.others = [json.dumps(asdict(other)) for other in others]
        self.own: list[Target] = []

    def gather(self, text: str) -> list[str]:
        """Return this rank's text and the given ones."""
        self.own.append(Target(**json.loads(text)))
        return [text, *self.others]


@pytest.mark.parametrize(("address", "warned"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_a_run_on_two_nodes_says_at_its_start_what_cannot_be_scraped(
    address: str, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Metrics, "serve", lambda _metrics, _address, port, _access: port)
    monkeypatch.setattr(network, "own_address", lambda _launched: "10.0.0.0")
    run = context(settings(f"metrics.address={address}", f"run.directory={tmp_path}"))
    run = replace(run, launched=replace(run.launched, world_size=2, local_world_size=1))
    control = Gathered(LOOPBACK[2:3] if warned else OPEN[2:3])
    open_metrics(run, control)
    host = "127.0.0.1" if warned else "10.0.0.0"
    (own,) = control.own
    assert (own.endpoint, own.is_local) == (f"{host}:9410", warned)
    groups = json.loads((tmp_path / run_directory.TARGETS).read_text())
    assert len(groups) == (1 if warned else 2)
    assert ("the metrics of 1 of 2 ranks (on node-1)" in capsys.readouterr().err) == warned


def test_targets_are_written_whole_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "targets.json"
    write_targets(path, OPEN)
    (group,) = written(path, LOOPBACK[:1])
    assert group["targets"] == ["127.0.0.1:9410"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["targets.json"]
    remove_targets(path)
    remove_targets(path)
    assert not path.exists()
    assert capsys.readouterr().err == ""


def test_targets_appear_by_a_rename_of_a_name_that_no_pattern_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[str]]] = []
    rename = Path.replace

    def spy(source: Path, target: Path) -> Path:
        seen.append((source.name, sorted(path.name for path in tmp_path.glob("*.json"))))
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", spy)
    write_targets(tmp_path / "targets.json", LOOPBACK[:1])
    assert seen == [("targets.json.tmp", [])]


def test_targets_that_cannot_be_written_do_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_targets(tmp_path / "gone" / "targets.json", LOOPBACK[:1])
    (tmp_path / "targets.json").mkdir()
    remove_targets(tmp_path / "targets.json")
    first, second = capsys.readouterr().err.splitlines()
    assert "not written" in first
    assert "not removed" in second
