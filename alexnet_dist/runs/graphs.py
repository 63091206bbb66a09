"""A run's net as a graph that runs without this package: ONNX, or torch.export's .pt2.

Both map pixels (B, 3, crop, crop) float32, RGB of 0 to 255, to logits and probabilities (B, classes); the mean is
subtracted inside.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from alexnet_dist.errors import UserError
from alexnet_dist.nn.plain import Classifier
from alexnet_dist.runs.exported import SUBTRACT, description, plain_net
from alexnet_dist.runs.load import LoadedRun
from alexnet_dist.system.files import replace_durably, replace_file, temporary_of

INPUT, OUTPUTS = "pixels", ["logits", "probabilities"]
DESCRIPTION = "description.json"  # in a .pt2
IN_THE_GRAPH = ("layers", "layers_notes", "mean", "mean_notes")  # what the graph contains, of a description
BATCH = "batch"
EXAMPLES = 2  # a batch of one would become part of the graph


def graph_description(run: LoadedRun) -> dict[str, str]:
    """Return what a user of the graph must know: see exported.description."""
    values = {key: value for key, value in description(run).items() if key not in IN_THE_GRAPH}
    return values | {"input": values["input"].replace(SUBTRACT, "The graph subtracts the mean.")}


def write_onnx(run: LoadedRun, path: Path) -> None:
    """Write an ONNX file with the description as its metadata. Raises UserError without the onnx packages, OSError."""
    try:
        import onnxscript  # noqa: F401 (torch.onnx needs it)
        from onnx_ir import Shape
    except ImportError:
        raise UserError("ONNX needs two more packages: pip install 'alexnet_dist[onnx]'") from None
    with warnings.catch_warnings(action="ignore"):  # torch's own, about torch
        level = logging.getLogger("torch.onnx").level
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # torchvision, which is not used, is missing
        try:
            program = torch.onnx.export(
                _graph(run), dynamo=True, input_names=[INPUT], output_names=OUTPUTS, verbose=False
            )
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        assert value.shape is not None
        value.shape = Shape([BATCH, *value.shape[1:]])
    program.model.metadata_props.update(graph_description(run))
    temporary = temporary_of(path)
    temporary.unlink(missing_ok=True)  # a link that stands there is not followed
    try:
        program.save(temporary, external_data=False)
        replace_durably(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_pt2(run: LoadedRun, path: Path) -> None:
    """Write a file for torch.export.load, with the description in extra_files. Raises OSError."""
    content = io.BytesIO()
    torch.export.save(_graph(run), content, extra_files={DESCRIPTION: json.dumps(graph_description(run))})
    replace_file(path, content.getvalue())


def _graph(run: LoadedRun) -> ExportedProgram:
    """Return the traced net, for a batch of any size."""
    side = run.config.data.crop
    example = torch.zeros(EXAMPLES, 3, side, side)
    return torch.export.export(Classifier(plain_net(run)), (example,), dynamic_shapes={INPUT: {0: Dim(BATCH)}})
