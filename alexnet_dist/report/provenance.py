"""Where a run comes from, as its directory records it: starts, software, data, and its configuration with sources."""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Mapping
from html import escape
from importlib.metadata import PackageNotFoundError, version

import alexnet_dist
from alexnet_dist import config as configs
from alexnet_dist.config.keys import format_value
from alexnet_dist.config.loading import DEFAULT
from alexnet_dist.report.history import History, Line
from alexnet_dist.report.markup import facts, paragraph, table
from alexnet_dist.report.overview import UNKNOWN

NOT_RECORDED = "not recorded in the run directory"
HERE_ALONE = ("data.root", "data.cache", "data.cache_bytes", "data.workers", "run.directory")
START_COLUMNS = ("start", "began (UTC)", "from step", "ended at step", "ranks", "hosts", "software")
COMMIT_CHARACTERS = 12


def starts(run: History) -> str:
    """Return the starts of a run as a table; nothing if none is recorded."""
    if not run.starts:
        return ""
    ends = {line.get("start"): line.get("step") for line in run.ends}
    rows = [
        (
            str(line.get("start", UNKNOWN)),
            str(line.get("began", UNKNOWN)).replace("T", " ").removesuffix("Z"),
            str(line.get("step", UNKNOWN)),
            str(ends.get(line.get("start"), "no regular end")),
            _ranks(line),
            ", ".join(_hosts(line)) or UNKNOWN,
            f"{_software(line)}{', commit ' + _short(str(line['commit'])) if line.get('commit') else ''}",
        )
        for line in run.starts
    ]
    note = (
        "A start has a regular end when it finishes the run or is asked to stop; the last one may still be active."
        if len(ends) < len(rows)
        else ""
    )
    return "<h3>Starts</h3>" + table(START_COLUMNS, rows) + (paragraph(note, "soft") if note else "")


def _ranks(line: Line) -> str:
    ranks, replicas, layout = (line.get(name, UNKNOWN) for name in ("world_size", "replicas", "layout"))
    return f"{ranks} ({replicas} {'replica' if replicas == 1 else 'replicas'}, {layout}), {line.get('device', UNKNOWN)}"


def _hosts(line: Line) -> list[str]:
    found = line.get("ranks_by_host")
    return [f"{host} ({ranks})" for host, ranks in found.items()] if isinstance(found, Mapping) else []


def _software(line: Line) -> str:
    names = {"alexnet_dist": "alexnet_dist", "torch": "torch", "python": "Python"}
    found = [f"{shown} {line[name]}" for name, shown in names.items() if name in line]
    return ", ".join(found)


def _short(commit: str) -> str:
    """Return a commit short enough for a table, still with its mark of changed files."""
    name, _, mark = commit.partition("-")
    return name[:COMMIT_CHARACTERS] + (f"-{mark}" if mark else "")


def counted(run: History) -> list[tuple[str, str]]:
    """Return what the ranks have counted, summed over all starts that have recorded it."""
    if not run.ends:
        return [("bad samples", f"{NOT_RECORDED} before the end of a start; --live counts them")]
    reasons: Counter[str] = Counter()
    failures: dict[str, int] = {}  # by start; every rank counts the same
    for line in run.ends:
        found, start = line.get("bad_samples"), str(line.get("start"))
        reasons.update(
            {str(reason): _whole(count) for reason, count in found.items()} if isinstance(found, Mapping) else {}
        )
        failures[start] = max(failures.get(start, 0), _whole(line.get("checkpoint_failures")))
    ended = f" (in {len(failures)} of {len(run.starts)} starts: the others had no end)"
    of = "" if len(failures) == len(run.starts) else ended
    listed = ", ".join(f"{reason}: {count:,}" for reason, count in reasons.items() if count)
    return [
        (
            "bad samples, for which others were substituted",
            f"{reasons.total():,}{f' ({listed})' if listed else ''}{of}",
        ),
        ("checkpoints that could not be written", f"{sum(failures.values()):,}{of}"),
    ]


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def provenance(run: History) -> str:
    """Return where a run comes from: the command and software of its last start, times, data, and this report's."""
    last: Line = run.starts[-1] if run.starts else {}
    command = last.get("command")
    data = UNKNOWN
    if run.manifest is not None:
        images, classes = f"{run.manifest.images:,} training images", f"{len(run.manifest.classes):,} classes"
        data = f"{images}, {classes}, {run.manifest.size} pixels a side"
    rows = [
        ("run directory", str(run.directory.resolve())),
        ("command of the last start", shlex.join(map(str, command)) if isinstance(command, list) else NOT_RECORDED),
        ("software of the last start", _software(last) or NOT_RECORDED),
        ("commit", str(last.get("commit") or "not known: not run from a git checkout") if last else NOT_RECORDED),
        ("ranks", f"{_ranks(last)}; on {', '.join(_hosts(last))}" if last else NOT_RECORDED),
        *run.times,
        ("written last by", run.process or NOT_RECORDED),
        ("global batch", f"{run.config.data.global_batch:,} images"),
        ("data", data),
        ("manifest", UNKNOWN if run.manifest is None else f"sha256 {run.manifest.sha256}"),
        ("packed with", _packed_with(run)),
        (
            "this report",
            f"alexnet_dist {alexnet_dist.__version__}, torch {_torch()}, Python {platform.python_version()}",
        ),
    ]
    return facts((name, value) for name, value in rows)


def _packed_with(run: History) -> str:
    libraries = {} if run.manifest is None else run.manifest.libraries
    return ", ".join(f"{name} {release}" for name, release in libraries.items()) or NOT_RECORDED


def _torch() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "unknown"


def configuration(run: History) -> str:
    """Return what a run's configuration changes of the paper's, with the source of each value, and all of it."""
    paper, own = configs.flat(configs.load([], []).config), configs.flat(run.config)
    sources = _sources(run)
    changed = [
        (key, _shown(own, key), _shown(paper, key), sources.get(key, NOT_RECORDED))
        for key in {**own, **paper}
        if own.get(key) != paper.get(key) and key not in HERE_ALONE
    ]
    columns = ("key", "this run", "the paper's run", "source")
    told = table(columns, changed) if changed else paragraph("That of the paper.")
    origins = {key: sources.get(key, DEFAULT) for key in own}
    loaded = configs.LoadedConfig(run.config, origins)
    whole = configs.print_config(loaded) if sources else configs.to_yaml(run.config)
    return f"{told}<details><summary>Every key</summary><pre>{escape(whole)}</pre></details>"


def _shown(values: Mapping[str, object], key: str) -> str:
    """Return a value as it is typed, or a dash for a layer that a net does not have."""
    value = values.get(key, UNKNOWN)
    return value if isinstance(value, str) else format_value(value)


def _sources(run: History) -> dict[str, str]:
    """Return where the last start had the values from that are not defaults, by key: file and line, or command line."""
    found = run.starts[-1].get("origins") if run.starts else None
    return {str(key): str(origin) for key, origin in found.items()} if isinstance(found, Mapping) else {}
