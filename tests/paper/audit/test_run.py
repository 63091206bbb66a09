"""The audit holds, covers what the paper says, and sees code that does something else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping

import pytest
import torch
from torch import Tensor

from alexnet_dist.data import augment
from alexnet_dist.errors import RunError
from alexnet_dist.nn import layers
from alexnet_dist.pack.__main__ import _parser
from alexnet_dist.paper.audit import evaluation_claims, learning_claims, norm_claims, run, table
from alexnet_dist.paper.audit.claims import Claim, Topic
from alexnet_dist.runs import inference
from alexnet_dist.runs.load import LoadedRun
from alexnet_dist.training import optim
from support.definitions import ROOT, defined_in

TOPIC = Topic("§3.3 Norm", "paper")
# Numbers of each part of the facts: shapes and exchanges; hyper-parameters; data; several devices; counts.
NUMBERS = (
    ("48x55x55", "192x256x3x3 /1 p1", "21,632", "4,608", "2,048", "10.56", "2.25", "0.03", "55 3"),
    ("128", "0.9", "-5e-06", "0.01 -> 0.001", "0.0001 -> 1e-05", "0.02 -> 0.002", "0.000252", "10,009"),
    ("256 x 256", "0 32", "16 239", "121.78", "12.18", "3.71", "1.97", "1.1", "0.0478", "32 32"),
    ("2 threads", "peer to peer", "send own wait", "float16", "a barrier", "0.04 0.08"),
    ("60,965,224", "724,406,816", "659,272", "253,440", "32,531,112", "62,378,344", "59,798,312", "61,100,840"),
)


@pytest.fixture(scope="module")
def claims() -> list[Claim]:
    return run.audit()


def failed(claims: Iterable[Claim]) -> set[str]:
    return {claim.text for claim in claims if claim.outcome == "fails"}


def test_every_claim_holds_or_is_explained(claims: list[Claim]) -> None:
    assert failed(claims) == set()
    assert [claim.text for claim in claims if claim.outcome == "deviates" and not claim.note] == []
    assert len({(claim.section, claim.source, claim.text) for claim in claims}) == len(claims) >= 350


@pytest.mark.parametrize("numbers", NUMBERS)
def test_each_part_of_the_facts_is_there(numbers: tuple[str, ...], claims: list[Claim]) -> None:
    assert set(numbers) <= {claim.expected for claim in claims}


def test_every_function_and_test_exists(claims: list[Claim]) -> None:
    for where in {claim.where for claim in claims}:
        file, _, name = where.partition(":")
        assert name in defined_in(file), where


def test_every_remark_is_one_of_the_paper_page(claims: list[Claim]) -> None:
    remarks = set(re.findall(r"^\| (S\d+) \|", (ROOT / "PAPER.md").read_text(encoding="utf-8"), re.MULTILINE))
    named = {number for claim in claims for number in re.findall(r"\bS\d+\b", claim.note)}
    assert named <= remarks
    assert len(named) >= 8


def test_what_deviates_in_packing_is_packs_defaults(claims: list[Claim]) -> None:
    defaults = _parser().parse_intermixed_args(["SOURCE", "OUT"])
    found = {claim.text: claim.found for claim in claims}
    assert found["JPEG quality (85: inferred)"] == str(defaults.quality)
    assert found["images in a file"] == f"{defaults.samples_per_shard:,} in a tar"


def test_the_table_fits_a_terminal_and_ends_with_a_summary(claims: list[Claim]) -> None:
    lines = table.table(claims).splitlines()
    assert [line for line in lines if len(line) > table.WIDTH] == []
    rows = [line for line in lines[7:] if line.startswith(("= ", "~ ", "t "))]
    cells = [(line[2:42].rstrip(), line[43:60].rstrip(), line[61:78].rstrip()) for line in rows[: len(claims)]]
    assert cells == [(claim.text, claim.expected, claim.found) for claim in claims]
    counted = re.fullmatch(
        r"(\d+) claims: (\d+) hold, (\d+) deviate \(explained\), (\d+) shown by tests, 0 fail", lines[-1]
    )
    assert counted
    total, *parts = map(int, counted.groups())
    assert total == sum(parts) == len(claims)


def test_json_has_every_claim(claims: list[Claim]) -> None:
    read = [json.loads(line) for line in table.json_lines(claims).splitlines()]
    assert [Claim(**values) for values in read] == claims


def test_a_claim_that_fails_ends_the_command_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = (TOPIC.equal("k", layers.window_sum, 2, 3), TOPIC.deviates("n", layers.window_sum, 5, 7, 5, "S5: so"))
    monkeypatch.setattr(run, "GROUPS", (lambda: iter(wrong),))
    with pytest.raises(RunError, match=r"2 claims: .* 2 fail: k; n; expected none to fail"):
        run.run_audit(as_json=False)
    printed = capsys.readouterr().out
    assert "    expected 2, found 3: alexnet_dist/nn/layers.py:window_sum" in printed
    assert "! n. Expected here: 7" in printed


# Mutants: code that does something else than the paper, in one group of claims each.


def test_a_norm_of_the_mean_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    total = layers.window_sum
    monkeypatch.setattr(layers, "window_sum", lambda maps, size: total(maps, size) / size)
    found = failed(claim for claim in run.audit([norm_claims.claims]) if claim.source == "paper")
    assert {"alpha, of the sum", "is the formula, a sum, after ReLU", "conv1: ReLU, norm, pool"} <= found
    assert "k (minDiv)" not in found


def test_decay_of_biases_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    descend = optim._descend

    def decaying(
        parameters: list[optim.Parameter], learning_rate: float, momentum: float, decay: float, is_compiled: bool
    ) -> None:
        del decay
        descend(parameters, learning_rate, momentum, 0.0005, is_compiled)

    monkeypatch.setattr(optim, "_descend", decaying)
    assert failed(run.audit([learning_claims.claims])) == {
        "decay of biases (the source's wc = 0)",
        "a step is the rule on its mean gradient",
    }


NINE: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = {
    "views": lambda patch: patch.setattr(augment, "ten_views", _nine_of(augment.ten_views)),
    "mean": lambda patch: patch.setattr(inference, "view_probabilities", _mean_of_nine),
}


def _nine_of(views: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda pixels, crop: views(pixels, crop)[:9]


def _mean_of_nine(run: LoadedRun, images: Tensor, views: int, device: torch.device) -> Tensor:
    mean = augment.centre_crop(run.mean, run.config.data.crop)
    patches = augment.ten_views(images, run.config.data.crop)[:9] if views == 10 else images[None, :, 4:71, 4:71]
    with torch.no_grad():
        logits = [run.model(augment.network_input(patch.to(device), mean, torch.float32)) for patch in patches]
    return torch.stack(logits).double().softmax(2).mean(0)


@pytest.mark.parametrize("mutant", NINE)
def test_a_mean_of_nine_views_fails(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    NINE[mutant](monkeypatch)
    found = failed(run.audit([evaluation_claims.claims]))
    assert "mean of ten softmax outputs, by hand" in found
    assert ("views" in found) == (mutant == "views")
    assert "centre view's softmax output, by hand" not in found
