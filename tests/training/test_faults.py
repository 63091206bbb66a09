"""Faults at an exact step and phase: what they are, and that the run is the same run after them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alexnet_dist.errors import UserError
from alexnet_dist.training.faults import EXAMPLE, SLEEP_EXAMPLE, Fault, FaultyTimeline, Injector, parse_fault
from support.training import DETERMINISTIC, assert_same_run, finished, settings, torchrun

CPU = torch.device("cpu")


def test_a_fault_is_read() -> None:
    assert parse_fault(EXAMPLE) == Fault(2, 7, "forward", "kill")
    assert parse_fault("kind=nan,phase=load,step=1,rank=0") == Fault(0, 1, "load", "nan")
    assert parse_fault(SLEEP_EXAMPLE) == Fault(2, 7, "forward", "sleep", 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank=2,step=7", "expected such as rank=2,step=7,phase=forward,kind=kill"),
        ("rank=2,step=7,phase=forward,kind=kill,node=1", "expected such as"),
        ("rank=two,step=7,phase=forward,kind=kill", "rank and step are whole numbers"),
        ("rank=2,step=7,phase=lunch,kind=kill", "expected a phase of load, data_wait, forward"),
        ("rank=2,step=7,phase=forward,kind=flood", "a kind of kill, stop, nan, sleep"),
        ("rank=2,step=7,phase=forward,kind=nan", "nan is a fault of phase=load"),
        ("rank=2,step=7,phase=backward,kind=sleep,seconds=1", "sleep is a fault of phase=forward"),
        ("rank=2,step=7,phase=forward,kind=sleep", f"expected such as {SLEEP_EXAMPLE}"),
        ("rank=2,step=7,phase=forward,kind=kill,seconds=1", "expected such as rank=2,step=7,phase=forward,kind=kill"),
        ("rank=2,step=7,phase=forward,kind=sleep,seconds=-1", "seconds is a number"),
    ],
)
def test_what_is_no_fault_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_fault(text)


def test_a_fault_strikes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr("os.kill", lambda _, number: sent.append(number))
    injector = Injector([Fault(0, 3, "forward", "kill"), Fault(0, 3, "load", "nan")], tmp_path)
    for step in (2, 3, 3):
        for phase in ("load", "forward"):
            injector.strike(step, phase)
    assert sent == [9]
    assert [injector.poisons(step) for step in (2, 3, 3)] == [False, True, True]
    Injector(injector.faults, tmp_path).strike(3, "forward")  # after a restart
    assert sent == [9]


def test_a_sleep_belongs_to_its_phase_of_each_step_from_its_own_on(tmp_path: Path) -> None:
    timeline = FaultyTimeline(CPU, injector=Injector([Fault(0, 2, "forward", "sleep", 0.1)], tmp_path))
    forward_s = []
    for timeline.step in (1, 2, 3):
        timeline.take()
        for phase in ("other", "forward", "backward"):
            timeline.mark(phase)
        phase_s = timeline.take().read().phase_s
        assert phase_s["other"] + phase_s["backward"] < 0.1
        forward_s.append(phase_s["forward"])
    assert forward_s[0] < 0.1
    assert min(forward_s[1:]) >= 0.1


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "faults",
    [
        # While rank 1 saves, and the other writes its tower.
        pytest.param(["rank=1,step=10,phase=save,kind=kill"], marks=pytest.mark.slow),
        pytest.param(
            [
                f"rank={rank},step={step},phase={phase},kind=kill"
                for rank, step, phase in [
                    (3, 4, "load"), (0, 7, "forward"), (1, 13, "link_wait"), (2, 17, "backward"),
                    (3, 22, "allreduce_wait"), (0, 25, "save"), (2, 31, "optimizer"),
                ]
            ],
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_rank_that_ends_in_any_phase_comes_back(
    faults: list[str], undisturbed: Path, shards: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    words = settings(shards, directory, *DETERMINISTIC, "topology.timeout_s=20", "metrics.port=null")
    words += [f"--unsafe-fault={fault}" for fault in faults]
    agent = torchrun(4, words, "--standalone", f"--max-restarts={len(faults)}", "--monitor-interval=0.1")
    output = finished(agent, timeout_s=250)
    assert output.count(" parameters on 2 replicas") == len(faults) + 1, output
    assert_same_run(directory, undisturbed)
