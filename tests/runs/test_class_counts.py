"""Errors by class and the confusion matrix, counted over a split by the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.evaluate import main
from alexnet_dist.runs import evaluation
from support.runs import CLASSES, write_run
from support.splits import Pack, opened


def test_errors_by_class_add_up_to_the_result(
    pack_tiny: Pack, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, split = write_run(tmp_path / "home")[0], opened(pack_tiny)
    main([str(directory), f"--data={split.root}", f"--by-class={tmp_path / 'out'}", "--json"])
    result = json.loads(capsys.readouterr().out)
    with (tmp_path / "out" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "out" / "confusion.csv").open() as file:
        header, *matrix = list(csv.reader(file))
    names = [f"class-{label}" for label in range(CLASSES)]
    counts = np.array([[int(value) for value in row[1:]] for row in matrix])
    assert (header[1:], [row[0] for row in matrix]) == (names, names)
    truth = [split.label(sample) for sample in range(split.images)]
    assert counts.sum(1).tolist() == [truth.count(label) for label in range(CLASSES)]
    assert 1 - counts.trace() / split.images == pytest.approx(result["top1_error"])
    total = sum(int(row["images"]) * float(row["top5_error"] or 0) for row in rows)
    assert total / split.images == pytest.approx(result["top5_error"], abs=1e-6)
    assert [row["class"] for row in rows] == names
    assert [row["class"] for row in rows if not row["top1_error"]] == [
        names[label] for label in range(CLASSES) if label not in truth
    ]
    for row in filter(lambda row: row["top1_error"], rows):
        own = counts[int(row["index"])]
        assert float(row["top1_error"]) == pytest.approx(1 - own[int(row["index"])] / own.sum(), abs=1e-6)
        others = {name: count for name, count in zip(names, own, strict=True) if name != row["class"]}
        assert int(row["times"]) == max(others.values())
        assert row["most_often_taken_for"] == "" or others[row["most_often_taken_for"]] == max(others.values())
    assert (tmp_path / "out" / "confusion.png").stat().st_size > 1000
    (tmp_path / "file").touch()
    monkeypatch.setattr(evaluation, "evaluate", None)  # it is refused before
    with pytest.raises(UserError, match=r"file.*; choose another folder for --by-class"):
        main([str(directory), f"--data={split.root}", f"--by-class={tmp_path / 'file' / 'out'}"])
