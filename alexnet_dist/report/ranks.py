"""What the ranks of a run say of themselves, live in their metrics, or at the end of a start in ranks.jsonl.

Metrics with a certificate or a password are read with the files that the run's configuration names.
"""

from __future__ import annotations

import base64
import json
import ssl
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from prometheus_client.parser import text_string_to_metric_families

from alexnet_dist import config as configs
from alexnet_dist.errors import UserError
from alexnet_dist.monitoring.access import CERT_KEY, PASSWORD_KEY, pinned_context, read_certificate, read_credentials
from alexnet_dist.monitoring.series import PREFIX
from alexnet_dist.monitoring.targets import SCHEME
from alexnet_dist.runs.directory import CONFIG, RANKS, TARGETS

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
    """The ranks that answered, by number, the addresses that did not, and how many more are not shown.

    problem: what this machine lacks to ask them, such as the file of their password.
    """

    answered: Sequence[RankMetrics]
    silent: Sequence[str] = ()
    not_shown: int = 0
    problem: str = ""


def read_ranks(directory: Path) -> Ranks | str:
    """Return the metrics of a run's ranks, or why there are none to ask."""
    path = directory / TARGETS
    try:
        listed = [
            (group.get("labels", {}).get(SCHEME, "http"), str(endpoint))
            for group in json.loads(path.read_text("utf-8"))
            for endpoint in group["targets"]
        ]
    except FileNotFoundError:
        return f"there is no {TARGETS}: the run is not active, or its ranks serve no metrics"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{path}: not a list of targets ({error}); expected what the run wrote: start it again"
    not_shown = max(0, len(listed) - MOST_RANKS)
    try:
        opener = _opener(directory)
    except UserError as error:
        return Ranks([], [endpoint for _, endpoint in listed[:MOST_RANKS]], not_shown, str(error))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(partial(_ask, opener), listed[:MOST_RANKS]))
    answered = sorted((each for each in found if isinstance(each, RankMetrics)), key=lambda each: each.rank)
    silent = [each for each in found if isinstance(each, str)]
    return Ranks(answered, silent, not_shown)


def recorded_ranks(ends: Sequence[Mapping[str, Any]]) -> Ranks | str:
    """Return what the ranks had counted by the last end that is recorded, or why that is not known.

    ends: the lines of ranks.jsonl.
    """
    if not ends:
        return "the ranks have recorded nothing: no start of the run has finished or was stopped in order yet"
    try:
        last = [line for line in ends if line["start"] == ends[-1]["start"]]
        found = [
            RankMetrics(
                rank=int(line["rank"]),
                node=str(line["host"]),
                software="",
                steps=float(line["steps"]),
                phase_s={str(phase): float(seconds) for phase, seconds in line["phase_s"].items()},
                counts={
                    "bad_samples_total": float(sum(line["bad_samples"].values())),
                    "skipped_batches_total": float(line["skipped_batches"]),
                    "checkpoint_failures_total": float(line["checkpoint_failures"]),
                },
            )
            for line in last
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"{RANKS} has a line that is not one of a rank's ({type(error).__name__}: {error})"
    found.sort(key=lambda each: each.rank)
    return Ranks(found[:MOST_RANKS], not_shown=max(0, len(found) - MOST_RANKS))


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


def _opener(directory: Path) -> urllib.request.OpenerDirector:
    """Return what asks the ranks of a run; UserError if its certificate or password cannot be read on this machine."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    try:
        section = configs.load([directory / CONFIG], []).config.metrics
    except UserError:  # of another version
        return urllib.request.build_opener(*handlers)
    if section.tls_cert is not None:
        trusted = pinned_context(read_certificate(CERT_KEY, section.tls_cert))
        handlers.append(urllib.request.HTTPSHandler(context=trusted))
    opener = urllib.request.build_opener(*handlers)
    if section.password_file is not None:
        credentials = base64.b64encode(read_credentials(PASSWORD_KEY, section.password_file)).decode()
        opener.addheaders = [("Authorization", f"Basic {credentials}")]
    return opener


def _ask(opener: urllib.request.OpenerDirector, target: tuple[str, str]) -> RankMetrics | str:
    """Return the metrics of one rank, its endpoint and perhaps a reason if it does not answer with any."""
    scheme, endpoint = target
    try:
        with opener.open(f"{scheme}://{endpoint}/metrics", timeout=TIMEOUT_S) as answer:
            return parse_metrics(answer.read(MOST_BYTES).decode("utf-8"))
    except HTTPError as error:
        error.close()
        return f"{endpoint} (its password is another)" if error.code == HTTPStatus.UNAUTHORIZED else endpoint
    except URLError as error:
        other = isinstance(error.reason, ssl.SSLCertVerificationError)
        return f"{endpoint} (its certificate is another, or has expired)" if other else endpoint
    except (OSError, HTTPException, ValueError, KeyError):
        return endpoint
