"""How predictions are printed: as text, as one JSON list, or as CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Protocol

from alexnet_dist.runs.prediction import Failure, Prediction

COLUMNS = ("image", "rank", "index", "name", "probability", "error")


class Output(Protocol):
    """Takes the results one by one."""

    def write(self, result: Prediction | Failure) -> None:
        """Print a result, or keep it."""
        ...

    def close(self) -> None:
        """Print what is kept."""
        ...


class Text:
    """The image's name, and below it a line for each class. Errors are not shown: they end the command."""

    def write(self, result: Prediction | Failure) -> None:
        """Print a prediction."""
        if isinstance(result, Prediction):
            print(_printable(result.image))
            for guess in result.classes:
                print(f"  {guess.probability:6.1%}  {guess.name}", flush=True)

    def close(self) -> None:
        """Do nothing: all is printed."""


class Json:
    """One list when all is known: {image, classes} or {image, error}."""

    def __init__(self) -> None:
        """Begin with no results."""
        self._results: list[Prediction | Failure] = []

    def write(self, result: Prediction | Failure) -> None:
        """Keep a result."""
        self._results.append(result)

    def close(self) -> None:
        """Print the list."""
        print(json.dumps([asdict(result) for result in self._results]))


class Csv:
    """A header, then a line for each class of each image, or for its error."""

    def __init__(self) -> None:
        """Print the header."""
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def write(self, result: Prediction | Failure) -> None:
        """Print a result."""
        if isinstance(result, Failure):
            self._writer.writerow((result.image, "", "", "", "", result.error))
            return
        for rank, guess in enumerate(result.classes, 1):
            self._writer.writerow((result.image, rank, guess.index, guess.name, guess.probability, ""))

    def close(self) -> None:
        """Do nothing: all is printed."""


def _printable(name: str) -> str:
    """Return a name with what a terminal would obey, or cannot show, as escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in name)


OUTPUTS: Mapping[str, Callable[[], Output]] = {"text": Text, "json": Json, "csv": Csv}
