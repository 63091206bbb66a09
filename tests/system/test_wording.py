"""Numbers in printed sentences have the right form of their noun, and errors one style."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alexnet_dist.system.wording import counted, noun, percent

PACKAGE = Path(__file__).parents[2] / "alexnet_dist"
UNDECIDED = re.compile(r"\} [a-z -]+\((s|es|ies)\)")
ERROR = re.compile(r"error[ :=]+\{[^}]*:\.\d[%f]\}")


@pytest.mark.parametrize(
    ("number", "singular", "words"),
    [
        (0, "image", "0 images"),
        (1, "replica", "1 replica"),
        (2, "class", "2 classes"),
        (1, "loader process", "1 loader process"),
        (3, "micro-batch", "3 micro-batches"),
        (1281167, "image", "1,281,167 images"),
    ],
)
def test_a_count_has_the_form_of_its_noun(number: int, singular: str, words: str) -> None:
    assert counted(number, singular) == words
    assert words.endswith(noun(number, singular))


def test_an_error_is_printed_in_per_cent() -> None:
    assert [percent(fraction) for fraction in (0, 0.40664, 1)] == ["0.00%", "40.66%", "100.00%"]


def test_no_sentence_leaves_the_form_open_or_formats_an_error_by_itself() -> None:
    lines = [(path, line) for path in PACKAGE.rglob("*.py") for line in path.read_text("utf-8").splitlines()]
    assert [(path, line) for path, line in lines if UNDECIDED.search(line) or ERROR.search(line)] == []
