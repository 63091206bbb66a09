"""A run directory that an earlier version wrote is read as that version read it.

tests/support/earlier_run/ was written by commit 0258b52, before the package was divided into subpackages: 24 steps of
tests/support/tiny.yaml in one process. The probabilities below are those that the same commit computed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alexnet_dist.runs.checkpoint import find
from alexnet_dist.runs.directory import CHECKPOINTS, EVALUATIONS, METRICS, read_lines
from alexnet_dist.runs.inference import view_probabilities
from alexnet_dist.runs.load import geometry_state, load_run
from alexnet_dist.training.resume import check_resumable
from alexnet_dist.training.schedule import Progress

EARLIER = Path(__file__).parents[1] / "support" / "earlier_run"
PROBABILITIES = {
    1: [0.1296998194892882, 0.13999855692920754, 0.15093154180650875, 0.14503886637479044, 0.1446249408707072,
        0.152669837518498, 0.1370364370109998],
    10: [0.12747759855567573, 0.14238093546080371, 0.146679752668671, 0.14719391750681296, 0.14800934272343522,
         0.15104352497089982, 0.13721492811370153],
}  # fmt: skip


@pytest.mark.parametrize("views", [1, 10])
def test_an_earlier_runs_net_computes_what_it_computed(views: int) -> None:
    run = load_run(EARLIER)
    assert run.step == 24
    images = (torch.arange(32 * 32 * 3) % 251).to(torch.uint8).view(1, 32, 32, 3)
    probabilities = view_probabilities(run, images, views, torch.device("cpu"))[0].tolist()
    assert probabilities == pytest.approx(PROBABILITIES[views], rel=1e-5)


def test_an_earlier_run_may_be_resumed() -> None:
    run = load_run(EARLIER)
    saved, complaints = find(EARLIER / CHECKPOINTS)
    assert complaints == []
    assert saved is not None
    position = {**saved.state["position"], "step": 0, "events": [], "skipped": []}
    check_resumable(saved, geometry_state(run.model.net), position)
    assert Progress(**saved.state["progress"]).best_error == pytest.approx(
        read_lines(EARLIER / EVALUATIONS)[-1]["top1_error"]
    )
    assert [line["step"] for line in read_lines(EARLIER / METRICS)] == list(range(1, 25))
