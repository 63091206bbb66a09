"""python -m alexnet_dist.features RUN OUT [IMAGE ...]: what a layer of a trained run computes for images, as a file.

Without IMAGE a whole split of the run's data. OUT's suffix says in which format: .npz or .safetensors. Both have
`features` (n, units) float32, maps flattened as (maps, rows, columns), of the centre of each image, and `labels` (n,)
int64, indices into `classes`, or -1 where they are unknown. `ids` has the name of each image, or its position in the
split, which `show` numbers as well; `layer` and `step` say what has computed them. In a .safetensors all but the
first two are in the metadata, `ids` and `classes` as JSON.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.config.arguments import add_device_argument, add_step_argument
from alexnet_dist.data.choices import SPLITS
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.system import resources

if TYPE_CHECKING:
    from alexnet_dist.runs.feature_files import Batch
    from alexnet_dist.runs.prediction import Failure

SUFFIXES = (".npz", ".safetensors")


def main(arguments: list[str]) -> None:
    """Parse, load, compute, write.

    Images that cannot be used are left out and named at the end, in a UserError.
    """
    parsed = _parser().parse_intermixed_args(arguments)
    if parsed.out.suffix not in SUFFIXES:
        raise UserError(f"{parsed.out}: expected a name that ends in {SUFFIXES[0]} or {SUFFIXES[1]}")
    if parsed.images and (parsed.split or parsed.data):
        raise UserError("IMAGE and --split or --data: expected images, or a split")
    if parsed.out.is_dir():
        raise UserError(f"{parsed.out}: a folder; expected the name of a file")
    # These import torch: --help does without it.
    from alexnet_dist.data.loader import worker_death_as_error
    from alexnet_dist.data.reader import Split
    from alexnet_dist.data.remote import locate
    from alexnet_dist.runs.feature_files import of_pictures, of_split, write_features
    from alexnet_dist.runs.inference import find_device
    from alexnet_dist.runs.load import load_run
    from alexnet_dist.runs.pictures import find_pictures

    resources.keep_freed_memory()
    device = find_device(parsed.device)
    run = load_run(parsed.run, parsed.step)
    run.model.to(device)
    layer = parsed.layer or list(run.model.net.layers)[-2]
    if layer not in run.model.net.layers:
        raise UserError(f"--layer {layer}: expected one of {', '.join(run.model.net.layers)}")
    errors: list[str] = []
    if parsed.images:
        pictures, note = find_pictures(parsed.images)
        if note:
            print(note, file=sys.stderr, flush=True)
        batches = _usable(of_pictures(run, pictures, layer, device), errors)
    else:
        data = run.config.data
        split = Split.open(locate(parsed.data or data.root, data.cache, data.cache_bytes), parsed.split or "val")
        batches = of_split(run, split, layer, device)
    with worker_death_as_error():
        rows, units = write_features(parsed.out, batches, run, layer)
    print(f"{parsed.out}: {layer} of {rows:,} images, {units:,} units, step {run.step:,}")
    if errors:
        raise UserError(f"{len(errors):,} of {len(errors) + rows:,} images were left out:\n" + "\n".join(errors))


def _usable(batches: Iterable[Batch | Failure], errors: list[str]) -> Iterator[Batch]:
    """Yield what is no failure; keep the errors of the others."""
    from alexnet_dist.runs.prediction import Failure

    for batch in batches:
        if isinstance(batch, Failure):
            errors.append(batch.error)
        else:
            yield batch


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_dist.features",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write: its name ends in .npz or .safetensors")
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="a file, a folder, a URL, or -, as for predict")
    parser.add_argument(
        "--layer", help="its output, after its activation, norm and pooling; default: the last hidden layer"
    )
    parser.add_argument("--split", choices=SPLITS, help="split to read (default: val)")
    parser.add_argument("--data", help="shards to read; default: the run's data.root")
    add_step_argument(parser)
    add_device_argument(parser)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
