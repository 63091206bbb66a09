"""Which classes a net takes for which, counted over a split: errors by class, and the confusion matrix."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from alexnet_dist.nn.scoring import positions

TOP5 = 5
ERRORS, MATRIX = "classes.csv", "confusion.csv"


class ClassCounts:
    """Counts over the images added so far.

    confusion: (classes, classes) int64, images by their class and by the class found. not_in_top5: (classes,) int64.
    """

    def __init__(self, classes: int) -> None:
        """Begin with no images."""
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.not_in_top5 = torch.zeros(classes, dtype=torch.int64)

    def add(self, probabilities: Tensor, truth: Tensor) -> None:
        """Count a batch: probabilities (n, classes), the classes of its images (n,) int64."""
        classes, truth = len(self.confusion), truth.cpu()
        found = torch.from_numpy(probabilities.cpu().numpy().argmax(1))  # numpy's is the first of equal ones
        self.confusion += torch.bincount(truth * classes + found, minlength=classes * classes).view(classes, classes)
        missed = positions(probabilities.cpu(), truth) >= TOP5
        self.not_in_top5 += torch.bincount(truth[missed], minlength=classes)

    def by_class(self, names: Sequence[str]) -> list[dict[str, object]]:
        """Return for each class with images its errors, as fractions, and the class for which it is taken most often.

        top5_error: None below six classes.
        """
        rows = []
        for label, name in enumerate(names):
            images = int(self.confusion[label].sum())
            if not images:
                continue
            others = self.confusion[label].clone()
            right, others[label] = int(others[label]), 0
            most = int(others.argmax())
            rows.append(
                {
                    "index": label,
                    "class": name,
                    "images": images,
                    "top1_error": 1 - right / images,
                    "top5_error": int(self.not_in_top5[label]) / images if len(names) > TOP5 else None,
                    "most_often_taken_for": names[most] if others[most] else "",
                    "how_often": int(others[most]),
                }
            )
        return rows

    def write(self, folder: Path, names: Sequence[str]) -> None:
        """Write classes.csv and confusion.csv into a folder, which is made if it is missing. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = self.by_class(names)
        with (folder / ERRORS).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)
        with (folder / MATRIX).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["class \\ found", *names])
            table.writerows([name, *row] for name, row in zip(names, self.confusion.tolist(), strict=True))
