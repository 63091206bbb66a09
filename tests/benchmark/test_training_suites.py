"""The commands ``step``, ``link`` and ``scaling``: ratios of made-up figures, output, and rejected options."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
import torch

from alexnet_dist.benchmark import rounds
from alexnet_dist.benchmark.__main__ import main
from alexnet_dist.benchmark.contenders import link_joins, plain_nets
from alexnet_dist.benchmark.contenders.training_steps import StepSettings
from alexnet_dist.benchmark.rounds import OTHERS, Contender, Result
from alexnet_dist.benchmark.suites import scaling, step
from alexnet_dist.errors import UserError

JOINS = {join.name: 100.0 for join in link_joins.joins(plain_nets.geometry(), 32, 0, torch.float32)}
SPEED = {step.PLAIN: 20.0, step.FUSED: 30.0, step.OVERLAPPED: 27.0, step.NORM_TORCH: 100.0}


def made_up(contender: Contender) -> Mapping[str, float]:
    """Return figures as a contender might print them."""
    if contender.settings.get("task") in ("rank_link", "rank_wire"):
        return {**JOINS, OTHERS: 0.0}
    if contender.settings.get("task") == "rank_allreduce":
        return {"gigabytes_per_second": 1.0, "allreduce_ms": 122.0, OTHERS: 0.0}
    if contender.settings.get("task") == "rank_status":
        return {"status_us": 50.0, "status_ring_us": 80.0, OTHERS: 0.0}
    speed = SPEED.get(contender.name, 10.0)
    figures = {"images_per_second": speed, "step_ms": 32_000 / speed, OTHERS: 0.25}
    if contender.task == "ranks":
        slow = contender.name in (step.OVERLAPPED_SLOW, step.BLOCKING_SLOW)
        wait_ms = {step.OVERLAPPED_SLOW: 16.0, step.BLOCKING_SLOW: 84.0}.get(contender.name, 6.0)
        figures |= {"link_wait_ms": wait_ms, "received_megabytes": 7.8, "injected_ms": 78.0 if slow else 0.0}
    return figures


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "run_alone", made_up)
    monkeypatch.setattr(step, "compile_problem", lambda _device: "no compiler")
    monkeypatch.setattr(plain_nets, "torchvision_problem", lambda: "torchvision is not installed")
    monkeypatch.setattr(step, "has_bfloat16", lambda: False)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    main([*arguments, "--json"])
    printed: dict[str, object] = json.loads(capsys.readouterr().out)
    return printed


def test_step(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_json(capsys, "step")
    assert printed["benchmark"] == "step"
    assert printed["others_cpu_cores"] == 0.25
    ratios = printed["ratios"]
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
    rows = printed["rows"]
    assert isinstance(rows, list)
    missing = {row["name"]: row["missing"] for row in rows if "missing" in row}
    assert missing == {
        step.TORCHVISION: "torchvision is not installed",
        step.COMPILED: "torch.compile fails here: no compiler",
        step.BF16: step.NO_BF16,
        step.BF16_LAST: step.NO_BF16,
        step.NORM_COMPILED: "torch.compile fails here: no compiler",
    }
    main(["step"])
    text = capsys.readouterr().out
    assert text.startswith("medians of 5 rounds on ")
    assert "link wait ms" in text
    assert "no bfloat16 instructions" in text


def test_the_contenders_of_a_step_differ_in_what_they_say() -> None:
    by_name = {contender.name: contender for contender in step.contenders(StepSettings(32, 4, 4))}
    settings = by_name[step.OVERLAPPED_SLOW].settings["settings"]
    assert isinstance(settings, dict)
    assert (settings["threads"], settings["ns_per_byte"], settings["blocking"]) == (2, 10.0, False)
    settings = by_name[step.BLOCKING].settings["settings"]
    assert isinstance(settings, dict)
    assert (settings["threads"], settings["ns_per_byte"], settings["blocking"]) == (2, 0.0, True)
    assert by_name[step.FUSED].settings["threads"] == by_name[step.PLAIN].settings["threads"] == 4
    assert by_name[step.COMPILED].settings["compile_norm"]


def test_a_step_on_cuda(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    printed = run_json(capsys, "step", "--device", "cuda", "--batch", "512", "--peak-tflops", "900")
    assert printed["ratios"] == {"cuda_vs_plain": 1}
    plain, ours, compiled = step.cuda_contenders(StepSettings(512, 4, 1, "cuda", "bfloat16", channels_last=True))
    assert plain.settings == ours.settings
    assert {**ours.settings, "compile_norm": True} == compiled.settings


def test_a_share_is_of_the_same_rounds_wait() -> None:
    def result(name: str, *waits_ms: float) -> Result:
        return Result(name, tuple({"link_wait_ms": wait_ms, "injected_ms": 100.0} for wait_ms in waits_ms))

    results = [result("slow", 30, 130, 50), result("fast", 10, 100, 40)]
    assert step.wait_share(results, "slow", "fast") == 0.2
    assert step.wait_share(results, "slow", "gone") is None


def test_link(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_json(capsys, "link")
    assert printed["ratios"] == {"link_vs_torch": 1, "link_vs_torch_4_bytes": 1}
    assert isinstance(printed["rows"], list)
    assert [row["name"] for row in printed["rows"]] == list(JOINS)
    main(["link"])
    assert "PairLink GB/s" in capsys.readouterr().out


def test_scaling(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_json(capsys, "scaling")
    assert printed["ratios"] == {"ranks_2_vs_1": 1, "ranks_4_vs_1": 1}
    pair, pairs = printed["bounds_here"] if isinstance(printed["bounds_here"], list) else []
    link_ms = 0.1 * (len(JOINS) - 2)  # without the 4 bytes and the pixels
    assert (pair["best_ms"], pair["worst_ms"]) == (3200, pytest.approx(3200 + link_ms))
    # The sum is hidden behind 27 % of 6.4 s, or not at all; a ring of two moves a tower's 122 MB once.
    assert (pairs["best_ms"], pairs["worst_ms"]) == (6400, pytest.approx(6400 + 2 * link_ms + 121.93, abs=0.01))
    assert pairs["measured_ms"] == 3200
    assert isinstance(printed["bounds_of_nodes"], list)
    assert [line["nodes"] for line in printed["bounds_of_nodes"]] == [1, 2, 4, 8, 16, 32, 64]
    sums = printed["status_sums"]
    assert isinstance(sums, list)
    assert sums[0] == {"ranks": 2, "status_us": 50, "ring_us": 80}
    assert sums[1] == {"ranks": 4, "status_us": 100, "ring_us": 240}
    assert sums[-1] == {"ranks": 1024, "status_us": 500, "ring_us": 2 * 1023 * 40}
    main(["scaling", "--step-ms", "12.5", "--network-gbit", "400"])
    text = capsys.readouterr().out
    assert "NOT MEASURED" in text
    assert "12.5 ms" in text
    assert "400 Gbit/s" in text
    assert "1,024 ranks:       500 along the tree,    81,840 in gloo's ring" in text


def test_ranks_share_the_threads() -> None:
    threads = []
    for contender in scaling.contenders(StepSettings(32, 4, 2)):
        settings = contender.settings.get("settings", contender.settings)
        assert isinstance(settings, dict)
        threads.append(settings["threads"])
    assert threads == [2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_mistakes_are_reported_plainly(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=message):
        main(arguments)
