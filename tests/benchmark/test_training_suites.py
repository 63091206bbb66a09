"""The commands ``step``, ``link`` and ``scaling``: ratios from made-up rows, what is printed, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch

from alexnet_dist.benchmark import rounds
from alexnet_dist.benchmark.__main__ import main
from alexnet_dist.benchmark.contenders import link_joins as joins
from alexnet_dist.benchmark.contenders import norm as norms
from alexnet_dist.benchmark.contenders import plain_nets as nets
from alexnet_dist.benchmark.contenders.training_steps import Job
from alexnet_dist.benchmark.rounds import OTHERS, Entry, Row
from alexnet_dist.benchmark.suites import scaling
from alexnet_dist.benchmark.suites import step as stepping
from alexnet_dist.errors import UserError

JOINS = {join.name: 100.0 for join in joins.joins(nets.geometry(), 32, 0, torch.float32)}
SPEED = {stepping.PLAIN: 20.0, stepping.FUSED: 30.0, stepping.OVERLAPPED: 27.0, stepping.NORM_TORCH: 100.0}


def made_up(entry: Entry) -> Mapping[str, float]:
    """Return figures as a contender might print them."""
    if entry.settings.get("task") in ("rank_link", "rank_wire"):
        return {**JOINS, OTHERS: 0.0}
    if entry.settings.get("task") == "rank_allreduce":
        return {"gigabytes_per_second": 1.0, "allreduce_ms": 122.0, OTHERS: 0.0}
    speed = SPEED.get(entry.name, 10.0)
    found = {"images_per_second": speed, "step_ms": 32_000 / speed, OTHERS: 0.25}
    if entry.task == "ranks":
        slow = entry.name in (stepping.OVERLAPPED_SLOW, stepping.BLOCKING_SLOW)
        wait_ms = {stepping.OVERLAPPED_SLOW: 16.0, stepping.BLOCKING_SLOW: 84.0}.get(entry.name, 6.0)
        found |= {"link_wait_ms": wait_ms, "received_megabytes": 7.8, "injected_ms": 78.0 if slow else 0.0}
    return found


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "run_alone", made_up)
    monkeypatch.setattr(norms, "compiler_problem", lambda _device: "no compiler")
    monkeypatch.setattr(nets, "torchvision_problem", lambda: "torchvision is not installed")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    main([*words, "--json"])
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_step(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "step")
    assert found["benchmark"] == "step"
    assert found["others_cpu_cores"] == 0.25
    ratios = found["ratios"]
    assert isinstance(ratios, dict)
    assert ratios == {
        "fused_vs_plain": 1.5,
        "pair_vs_fused": 0.9,
        "pair_vs_plain": 1.35,
        "overlapped_vs_blocking": 2.7,
        "overlapped_vs_blocking_slow_link": 1,
        "lrn_eager_vs_torch": 0.1,
        "wait_share_overlapped": pytest.approx(10 / 78),
        "wait_share_blocking": 1,
    }
    rows = found["rows"]
    assert isinstance(rows, list)
    missing = {row["name"]: row["missing"] for row in rows if "missing" in row}
    assert missing == {
        stepping.TORCHVISION: "torchvision is not installed",
        stepping.COMPILED: "no compiler",
        stepping.BF16: stepping.NO_BF16,
        stepping.BF16_LAST: stepping.NO_BF16,
        stepping.NORM_COMPILED: "no compiler",
    }
    main(["step"])
    said = capsys.readouterr().out
    assert said.startswith("medians of 5 rounds on ")
    assert "link wait ms" in said
    assert "no bfloat16 instructions" in said


def test_the_contenders_of_a_step_differ_in_what_they_say() -> None:
    found = {entry.name: entry for entry in stepping.entries(Job(32, 4, 4))}
    settings = found[stepping.OVERLAPPED_SLOW].settings["settings"]
    assert isinstance(settings, dict)
    assert (settings["threads"], settings["ns_per_byte"], settings["blocking"]) == (2, 10.0, False)
    settings = found[stepping.BLOCKING].settings["settings"]
    assert isinstance(settings, dict)
    assert (settings["threads"], settings["ns_per_byte"], settings["blocking"]) == (2, 0.0, True)
    assert found[stepping.FUSED].settings["threads"] == found[stepping.PLAIN].settings["threads"] == 4
    assert found[stepping.COMPILED].settings["compile_norm"]


def test_a_step_on_cuda(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    found = printed(capsys, "step", "--device", "cuda", "--batch", "512", "--peak-tflops", "900")
    assert found["ratios"] == {"cuda_vs_plain": 1}
    plain, ours, compiled = stepping.cuda_entries(Job(512, 4, 1, "cuda", "bfloat16", channels_last=True))
    assert plain.settings == ours.settings
    assert {**ours.settings, "compile_norm": True} == compiled.settings


def test_a_share_is_of_the_same_rounds_wait() -> None:
    def row(name: str, *waits_ms: float) -> Row:
        return Row(Entry(name, "", {}), tuple({"link_wait_ms": one, "injected_ms": 100.0} for one in waits_ms))

    rows = [row("slow", 30, 130, 50), row("fast", 10, 100, 40)]
    assert stepping.wait_share(rows, "slow", "fast") == 0.2
    assert stepping.wait_share(rows, "slow", "gone") is None


def test_link(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "link")
    assert found["ratios"] == {"link_vs_torch": 1, "link_vs_torch_4_bytes": 1}
    assert isinstance(found["rows"], list)
    assert [row["name"] for row in found["rows"]] == list(JOINS)
    main(["link"])
    assert "PairLink GB/s" in capsys.readouterr().out


def test_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "scaling")
    assert found["ratios"] == {"ranks_2_vs_1": 1, "ranks_4_vs_1": 1}
    pair, pairs = found["bounds_here"] if isinstance(found["bounds_here"], list) else []
    link_ms = 0.1 * (len(JOINS) - 2)  # without the 4 bytes and the pixels
    assert (pair["best_ms"], pair["worst_ms"]) == (3200, pytest.approx(3200 + link_ms))
    # All of the sum hides behind 27 % of 6.4 s, or nothing of it; a ring of two moves a tower's 122 MB once.
    assert (pairs["best_ms"], pairs["worst_ms"]) == (6400, pytest.approx(6400 + 2 * link_ms + 121.93, abs=0.01))
    assert pairs["measured_ms"] == 3200
    assert isinstance(found["bounds_of_nodes"], list)
    assert [one["nodes"] for one in found["bounds_of_nodes"]] == [1, 2, 4, 8, 16, 32, 64]
    main(["scaling", "--step-ms", "12.5", "--network-gbit", "400"])
    said = capsys.readouterr().out
    assert "NOT MEASURED" in said
    assert "12.5 ms" in said
    assert "400 Gbit/s" in said


def test_ranks_share_the_threads() -> None:
    threads = []
    for entry in scaling.entries(Job(32, 4, 2)):
        settings = entry.settings.get("settings", entry.settings)
        assert isinstance(settings, dict)
        threads.append(settings["threads"])
    assert threads == [2, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["step", "--rounds", "4"], "--rounds: 4; expected at least 5"),
        (["step", "--batch", "1"], "--batch: 1; expected at least 2"),
        (["step", "--threads", "0"], "--threads: 0; expected at least 1"),
        (["scaling", "--pair-batch", "1"], "--pair-batch: 1; expected at least 2"),
        (["scaling", "--network-gbit", "nan"], "--network-gbit: nan; expected more than 0"),
        (["scaling", "--step-ms", "-1"], "--step-ms: -1; expected more than 0"),
        (["step", "--device", "cuda"], "--device cuda: torch finds 0 CUDA devices; expected at least 1"),
        (["link", "--device", "cuda"], "--device cuda: torch finds 0 CUDA devices; expected at least 2"),
    ],
)
def test_mistakes_are_told_plainly(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=said):
        main(words)
