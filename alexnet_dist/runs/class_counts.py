"""Which classes a net takes for which, counted over a split: errors by class, and the confusion matrix."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from alexnet_dist.data.manifest import Class
from alexnet_dist.nn.scoring import positions

TOP5 = 5
DECIMALS = 6
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

    def by_class(self, classes: Sequence[Class]) -> list[dict[str, object]]:
        """Return for each class its errors, as fractions, and the class for which it is taken most often.

        The errors of a class without images are None, and so is top5_error below six classes.
        """
        rows: list[dict[str, object]] = []
        for label, described in enumerate(classes):
            images = int(self.confusion[label].sum())
            others = self.confusion[label].clone()
            right, others[label] = int(others[label]), 0
            most, missed = int(others.argmax()), int(self.not_in_top5[label])
            rows.append(
                {
                    "index": label,
                    "class": described.name,
                    "words": described.words or "",
                    "images": images,
                    "top1_error": round(1 - right / images, DECIMALS) if images else None,
                    "top5_error": round(missed / images, DECIMALS) if images and len(classes) > TOP5 else None,
                    "most_often_taken_for": classes[most].name if others[most] else "",
                    "times": int(others[most]),
                }
            )
        return rows

    def write(self, folder: Path, classes: Sequence[Class]) -> None:
        """Write classes.csv and confusion.csv into a folder. Raises OSError."""
        rows, names = self.by_class(classes), [described.name for described in classes]
        with (folder / ERRORS).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        with (folder / MATRIX).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(["true class \\ predicted", *names])
            table.writerows([name, *row] for name, row in zip(names, self.confusion.tolist(), strict=True))
