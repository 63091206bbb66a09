"""python -m alexnet_dist.doctor chaos: train a job under random faults on this machine, and report whether it survives.

The job is trained twice: once in peace, then with a fault after every few seconds. Killed and stopped processes, a
killed torchrun, a signal to stop, a full disk, a checkpoint and a shard that are cut in half: after each the job must
train again, by torchrun's restarts or the same command, and at the end have the same weights, bit for bit.

python -m alexnet_dist.doctor chaos --out /tmp/drill --config cifar10 data.root=shards run.steps=2000

Everything is below OUT: the runs, the output and a copy of the shards, if they are smaller than 2 GB; nothing else is
touched. run.save_every should take much less than --recovery-s. On CUDA, set train.deterministic=true. The exit code is
1 if the job has not survived, or has left a process or a file behind.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from alexnet_dist import config as configs
from alexnet_dist.data.remote import folder
from alexnet_dist.doctor.chaos.faults import KINDS
from alexnet_dist.errors import RunError, UserError
from alexnet_dist.system import environment

if TYPE_CHECKING:
    from alexnet_dist.config import Config

MOST_COPIED_BYTES = 2_000_000_000
TIMEOUT_S = 20  # after which ranks give a stopped one up
PEACE_S = 24 * 3600.0  # for the run without faults


def main(arguments: list[str]) -> None:
    """Run a drill and print its report; RunError if the job has not survived."""
    options = _parser().parse_intermixed_args(arguments)
    if environment.launch_info().under_torchrun:
        raise UserError("doctor chaos starts torchrun itself; start it with python -m alexnet_dist.doctor chaos")
    kinds = options.kinds.split(",") if options.kinds else list(KINDS)
    if unknown := set(kinds).difference(KINDS):
        raise UserError(f"--kinds: {', '.join(sorted(unknown))}; expected some of {','.join(KINDS)}")
    config = configs.from_arguments(options).config
    # It imports torch: --help does without it.
    from alexnet_dist.doctor.chaos import aftermath
    from alexnet_dist.doctor.chaos.drill import Limits, drill
    from alexnet_dist.doctor.chaos.faults import Paths
    from alexnet_dist.doctor.chaos.job import Job, run_to_its_end

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the job ends first
    out = _new_folder(options.out)
    shards, kinds = _own_shards(config, out, kinds)
    words = [f"topology.timeout_s={TIMEOUT_S}", *_config_words(options), "run.log_every=1"]
    words += [f"data.root={shards}"] if shards is not None else []
    reference, run = out / "reference", out / "run"
    _say(f"training without faults in {reference}")
    in_peace = [*words, f"run.directory={reference}"]
    run_to_its_end(Job(in_peace, options.nproc_per_node, out / "reference.log", restarts=0), PEACE_S)
    _say(f"training with {options.faults} faults in {run}: {', '.join(kinds)}")
    before = aftermath.files_outside()
    job = Job([*words, f"run.directory={run}"], options.nproc_per_node, out / "run.log")
    limits = Limits(options.mean_s, options.recovery_s)
    try:
        records, finished = drill(job, Paths(run, shards), kinds, options.faults, limits, Random(options.seed))
    finally:
        job.stop()
    left = aftermath.leaks(job, run, before)
    outcome = aftermath.Outcome(
        records, options.faults, finished, left, aftermath.difference(run, reference), job.starts
    )
    (out / "report.json").write_text(outcome.json() + "\n")
    print(outcome.json() if options.json else outcome.text(), flush=True)
    if not outcome.passed:
        short = finished and len(records) < options.faults
        hint = "; it ended before all faults were possible: raise run.steps, or lower --mean-s" if short else ""
        raise RunError(f"the job has not survived the drill; see {job.log}{hint}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _new_folder(path: Path) -> Path:
    """Make the folder of a drill and return its absolute path; UserError if it is not new, or cannot be made."""
    out = path.absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
        used = any(out.iterdir())
    except OSError as error:
        raise UserError(f"--out: {out}: {error.strerror}; choose a folder that can be made") from None
    if used:
        raise UserError(f"--out: {out} is not empty; choose a new folder: a drill harms what is in it")
    return out


def _own_shards(config: Config, out: Path, kinds: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Copy the packed set, so that it can be harmed; without a copy, leave those faults out and say so."""
    wanted = list(kinds)
    if "cut-shard" not in wanted:
        return None, wanted
    source = folder("data.root", config.data.root)
    packed = [path for name in ("train", "val") for path in source.glob(f"{name}[-.]*") if path.is_file()]
    reason = ""
    if not packed:
        reason = f"{config.data.root} is no folder of this machine with packed shards"
    elif sum(path.stat().st_size for path in packed) > MOST_COPIED_BYTES:
        reason = f"the shards of {source} are too large to copy, more than {MOST_COPIED_BYTES / 1e9:g} GB"
    if reason:
        wanted.remove("cut-shard")
        if not wanted:
            raise UserError(f"--kinds: cut-shard is not possible: {reason}")
        _say(f"cut-shard is left out: {reason}")
        return None, wanted
    (out / "shards").mkdir()
    for path in packed:
        shutil.copy(path, out / "shards")
    return out / "shards", wanted


def _config_words(options: argparse.Namespace) -> list[str]:
    return [*(word for file in options.config for word in ("--config", str(file))), *options.overrides]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.doctor chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    configs.add_config_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="a new folder, for all that the drill writes")
    parser.add_argument("--faults", type=configs.positive(int), default=20, metavar="N", help="how many (default: 20)")
    parser.add_argument(
        "--mean-s", type=configs.positive(float), default=20.0, metavar="S",
        help="seconds of training before a fault, on average (default: 20)",
    )  # fmt: skip
    parser.add_argument(
        "--recovery-s", type=configs.positive(float), default=300.0, metavar="S",
        help="after which the job counts as lost (default: 300)",
    )  # fmt: skip
    parser.add_argument(
        "--nproc-per-node",
        type=configs.positive(int),
        default=4,
        metavar="N",
        help="ranks, as for torchrun (default: 4)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the faults and their times (default: 0)")
    parser.add_argument("--kinds", metavar="KIND,...", help=f"of faults (default: {','.join(KINDS)})")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    return parser
