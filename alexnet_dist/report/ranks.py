"""What the ranks of a live run say of themselves: their metrics, read from the addresses in its targets.json."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from alexnet_dist.monitoring.metrics import PREFIX
from alexnet_dist.runs.directory import TARGETS

TIMEOUT_S, MOST_BYTES = 1.5, 1 << 21  # of one rank's metrics
MOST_RANKS, AT_ONCE = 64, 16
COUNTS = {
    "bad_samples_total": "bad samples",
    "skipped_batches_total": "skipped batches",
    "nonfinite_loss_total": "losses that were not finite",
    "checkpoint_failures_total": "checkpoints that could not be written",
}


@dataclass(frozen=True)
class RankMetrics:
    """One rank since its process began. phase_s: seconds of its steps by phase. counts: of faults, by the name."""

    rank: int
    node: str
    software: str
    steps: float
    phase_s: Mapping[str, float]
    counts: Mapping[str, float]


@dataclass(frozen=True)
class Ranks:
    """The ranks that answered, by number, the addresses that did not, and how many more were not asked."""

    answered: Sequence[RankMetrics]
    silent: Sequence[str]
    not_asked: int = 0


def read_ranks(directory: Path) -> Ranks | str:
    """Return the metrics of a run's ranks, or why there are none to ask."""
    path = directory / TARGETS
    try:
        listed = [endpoint for group in json.loads(path.read_text("utf-8")) for endpoint in group["targets"]]
    except FileNotFoundError:
        return f"there is no {TARGETS}: the run is not active, or its ranks serve no metrics"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{path}: not a list of targets ({error}); expected what the run wrote: start it again"
    asked = [str(endpoint) for endpoint in listed][:MOST_RANKS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(_ask, asked))
    answered = sorted((each for each in found if each is not None), key=lambda each: each.rank)
    silent = [endpoint for endpoint, each in zip(asked, found, strict=True) if each is None]
    return Ranks(answered, silent, max(0, len(listed) - MOST_RANKS))


def parse_metrics(text: str) -> RankMetrics:
    """Return what a rank's metrics say. Raises ValueError or KeyError if they are not those of a rank."""
    phase_s: dict[str, float] = {}
    counts: dict[str, float] = {}
    steps, rank, node, software = 0.0, -1, "", ""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix(PREFIX)
            if name == sample.name:
                continue
            if name == "phase_seconds_total":
                phase_s[sample.labels["phase"]] = sample.value
            elif name == "steps_total":
                steps, rank = sample.value, int(sample.labels["rank"])
            elif name == "rank_info":
                node = sample.labels["node"]
                software = f"torch {sample.labels['torch']}, alexnet_dist {sample.labels['version']}"
            elif name in COUNTS:
                counts[name] = counts.get(name, 0.0) + sample.value
    if rank < 0:
        raise ValueError("no steps of a rank")
    return RankMetrics(rank, node, software, steps, phase_s, counts)


def _ask(endpoint: str) -> RankMetrics | None:
    """Return the metrics of one rank, None if it does not answer with any."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{endpoint}/metrics", timeout=TIMEOUT_S) as answer:
            return parse_metrics(answer.read(MOST_BYTES).decode("utf-8"))
    except (OSError, HTTPException, ValueError, KeyError):
        return None
