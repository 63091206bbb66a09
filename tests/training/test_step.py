"""One optimizer step and one validation: what they add up, in which order they ask, and where their time goes."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from alexnet_dist.monitoring.timeline import PHASES
from alexnet_dist.nn.layers import DropoutKey
from alexnet_dist.nn.model import AlexNet
from alexnet_dist.nn.scoring import score
from alexnet_dist.training.step import train_step, validate
from support.nets import SMALL
from support.steps import FROZEN, RATES, SEED, Source, batch, fresh, gradients


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert (found[name] - tensor).abs().max() <= 1e-12 * tensor.abs().max(), name


def test_a_step_is_the_mean_loss_its_gradient_and_the_rule() -> None:
    engine, whole = fresh(), batch(0, 8)
    oracle = AlexNet(SMALL, SEED, torch.float64).train()
    logits = oracle(whole.images, DropoutKey(SEED, 6, whole.slots))
    wanted = -sum(logits.log_softmax(1)[row, label] for row, label in enumerate(whole.labels.tolist())) / 8
    wanted.backward()
    report = train_step(engine, Source([whole]), 6, RATES).read()
    assert report.loss == pytest.approx(float(wanted.detach()), rel=1e-12)
    assert report.wrong == sum(int(row.argmax()) != label for row, label in zip(logits, whole.labels, strict=True))
    assert report.batches == (whole.spec,)
    before = AlexNet(SMALL, SEED, torch.float64)
    for name, parameter in oracle.named_parameters():
        tower, key = int(name[7]), name[9:]
        gradient, old = parameter.grad, before.get_parameter(name)
        assert gradient is not None
        velocity = -0.01 * gradient * 2 if key.endswith("bias") else -0.01 * gradient - 0.0005 * 0.01 * old
        torch.testing.assert_close(engine.velocities[tower][key], velocity, rtol=1e-10, atol=1e-15)
        torch.testing.assert_close(engine.weights[tower][key], old + velocity, rtol=1e-10, atol=1e-15)


def test_an_engine_begins_at_rest() -> None:
    engine = fresh()
    assert all(not velocity.any() for named in engine.velocities.values() for velocity in named.values())
    assert {tower: set(named) for tower, named in engine.weights.items()} == {
        tower: set(named) for tower, named in engine.velocities.items()
    }
    assert engine.gradients(0) == {}


@pytest.mark.parametrize("spans", [[(0, 4), (4, 8)], [(0, 2), (2, 5), (5, 8)]])
def test_accumulation_changes_nothing(spans: list[tuple[int, int]]) -> None:
    whole, parts = fresh(), fresh(len(spans))
    one = train_step(whole, Source([batch(0, 8)]), 0, RATES).read()
    many = train_step(parts, Source([batch(*span) for span in spans]), 0, RATES).read()
    assert_same(gradients(parts), gradients(whole))
    assert many.loss == pytest.approx(one.loss, rel=1e-12)
    assert many.wrong == one.wrong
    assert [spec.first_slot for spec in many.batches] == [first for first, _ in spans]


def test_replicas_add_up_to_the_global_batch() -> None:
    whole, replicas = fresh(), [fresh(), fresh()]
    one = train_step(whole, Source([batch(0, 8)]), 0, RATES).read()
    each = [
        train_step(r, Source([batch(*span)]), 0, RATES).read()
        for r, span in zip(replicas, [(0, 3), (3, 8)], strict=True)
    ]
    left, right = map(gradients, replicas)
    assert_same({name: left[name] + right[name] for name in left}, gradients(whole))
    assert sum(report.loss for report in each) == pytest.approx(one.loss, rel=1e-12)
    assert sum(report.wrong for report in each) == one.wrong


def test_gradients_of_the_step_before_are_forgotten() -> None:
    engine, again = fresh(), fresh()
    for number in (0, 1):
        train_step(engine, Source([batch(0, 8)]), number, FROZEN)  # a learning rate of 0: the weights stay
    train_step(again, Source([batch(0, 8)]), 1, FROZEN)
    assert_same(gradients(engine), gradients(again))


def test_a_step_after_a_validation_trains() -> None:
    engine, again = fresh(), fresh()
    validate(engine, Source([batch(0, 2, train=False)]), 1, lambda: False)
    train_step(engine, Source([batch(0, 8)]), 0, RATES)
    train_step(again, Source([batch(0, 8)]), 0, RATES)
    assert_same(gradients(engine), gradients(again))


def test_the_next_batch_is_sent_when_the_last_exchange_of_backward_is_over() -> None:
    engine, source = fresh(2), Source([batch(0, 4), batch(4, 8)])
    train_step(engine, source, 0, RATES)
    # After backward of the first; of the last already at the boundary, and in any case after it.
    assert source.events == ["take", "ahead", "take", "ahead", "ahead"]
    engine, source, done = fresh(), Source([batch(0, 8)]), []
    source.when_ahead = lambda: done.append(set(engine.gradients(0)))
    train_step(engine, source, 0, RATES)
    assert {name.split(".")[0] for name in done[0]} == {"conv3", "conv4", "conv5", "fc6", "fc7", "fc8"}
    assert len(done[0]) == len(done[1]) - 4  # all of those; conv1 and conv2 compute while it travels


def test_bfloat16_computes_with_float32_weights() -> None:
    narrow, wide = fresh(1, torch.float32, torch.bfloat16), fresh(1, torch.float32, torch.float32)
    rows = batch(0, 8, torch.float32)
    reports = [train_step(engine, Source([rows]), 0, RATES).read() for engine in (narrow, wide)]
    assert reports[0].loss == pytest.approx(reports[1].loss, rel=0.05)
    assert reports[0].loss != reports[1].loss
    for weights in narrow.weights.values():
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert {gradient.dtype for gradient in gradients(narrow).values()} == {torch.float32}


def test_validation_computes_as_training_does_and_scores_wider() -> None:
    rows = batch(0, 8, torch.float32)
    sums = []
    for compute in (torch.float32, torch.bfloat16):
        engine = fresh(1, torch.float32, compute)
        engine.model.eval()
        assert engine.logits(rows.images).dtype == torch.float32
        found = validate(engine, Source([rows]), 1, lambda: False)
        assert found is not None
        sums.append(found.tolist())
    assert sums[0][0] == pytest.approx(sums[1][0], rel=0.05)
    assert sums[0][0] != sums[1][0]
    exact = fresh()
    exact.model.eval()
    assert exact.logits(batch(0, 2).images).dtype == torch.float64


def test_a_steps_phases_add_up() -> None:
    engine = fresh(2)
    source = Source([batch(0, 4), batch(4, 8)], engine.timeline, wait_s=0.02)
    began_s = time.perf_counter()
    times = train_step(engine, source, 0, RATES).read().times
    outside_s = time.perf_counter() - began_s
    assert tuple(times.phase_s) == PHASES
    assert times.step_s == pytest.approx(sum(times.phase_s.values()), rel=1e-12)
    assert 0.04 <= times.phase_s["data_wait"] < 0.1
    assert min(times.phase_s.values()) >= 0
    assert 0.04 < times.step_s <= outside_s
    assert min(times.phase_s[phase] for phase in ("forward", "backward", "optimizer")) > 0


def literal_score(logits: list[list[float]], labels: list[int]) -> list[float]:
    """The order of the classes by score, by index among equals; the loss as the softmax's definition has it."""
    loss = top1 = top5 = images = 0.0
    for row, label in zip(logits, labels, strict=True):
        if label < 0:
            continue
        order = sorted(range(len(row)), key=lambda k: (-row[k], k))
        largest = max(row)
        loss -= math.log(math.exp(row[label] - largest) / sum(math.exp(value - largest) for value in row))
        top1, top5, images = top1 + (label not in order[:1]), top5 + (label not in order[:5]), images + 1
    return [loss, top1, top5, images]


@given(data=st.data(), classes=st.integers(2, 8), rows=st.integers(1, 6))
def test_a_score_is_a_place_in_the_order(data: st.DataObject, classes: int, rows: int) -> None:
    few = st.sampled_from([-2.5, -1.0, 0.0, 0.5, 3.0])  # many ties
    logits = [data.draw(st.lists(few, min_size=classes, max_size=classes)) for _ in range(rows)]
    labels = [data.draw(st.integers(-1, classes - 1)) for _ in range(rows)]
    found = score(torch.tensor(logits), torch.tensor(labels))
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(literal_score(logits, labels), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_wrong(broken: float) -> None:
    logits = torch.zeros(2, 7)
    logits[0, 1] = broken
    _, top1, top5, images = score(logits, torch.tensor([0, 0])).tolist()
    assert (top1, top5, images) == (1, 1, 2)


def test_no_rows_score_nothing() -> None:
    assert score(torch.zeros(3, 4), torch.full((3,), -1)).tolist() == [0, 0, 0, 0]


def test_a_validation_counts_each_image_once() -> None:
    engine = fresh()
    source = Source([batch(0, 4, train=False), batch(4, 8, train=False, empty=3)])
    found = validate(engine, source, 2, lambda: False)
    assert found is not None
    oracle, rows = AlexNet(SMALL, SEED, torch.float64).eval(), batch(0, 5)
    logits = oracle(rows.images).detach()
    assert found.tolist() == pytest.approx(literal_score(logits.tolist(), rows.labels.tolist()), rel=1e-12)
    assert float(found[0]) == pytest.approx(float(F.cross_entropy(logits, rows.labels, reduction="sum")), rel=1e-12)
    assert source.events == ["take", "ahead"] * 2
    assert engine.gradients(0) == {}
    nothing = validate(engine, Source([]), 0, lambda: False)
    assert nothing is not None
    assert nothing.tolist() == [0, 0, 0, 0]


def test_a_validation_is_left_where_somebody_asks_to_stop() -> None:
    source, answers = Source([batch(0, 4, train=False), batch(4, 8, train=False)]), [True, False]
    assert validate(fresh(), source, 3, answers.pop) is None
    assert source.events == ["take", "ahead"] * 2
