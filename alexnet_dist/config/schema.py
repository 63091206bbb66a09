"""The configuration as one frozen value: every key of a run with its type, range, unit and source in the paper.

The defaults are the paper's run: `Config()` equals configs/paper.yaml, and other files say where they differ. Where
the text gives no number (plateau's patience, how often to save) the field's docstring says so.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from alexnet_dist.nn.geometry import PAPER_LAYERS, Geometry, Layer, Norm

LARGEST_SIDE = 4096  # pixels; far above any use, so that shapes stay plain numbers
# The ranges of the geometry's plain dataclasses; their types and meanings stand in geometry.py. For a list, the range
# is of each of its numbers.
RANGES: Mapping[type, Mapping[str, Any]] = {
    Layer: {
        "channels": Field(ge=2),
        "kernel": Field(ge=0, le=LARGEST_SIDE),
        "stride": Field(ge=1, le=LARGEST_SIDE),
        "padding": Field(ge=0, le=LARGEST_SIDE),
        "pool": Field(ge=1, le=LARGEST_SIDE),
        "dropout": Field(ge=0, lt=1),
        "init_std": Field(ge=0),
    },
    Norm: {"size": Field(ge=1), "alpha": Field(ge=0), "beta": Field(ge=0), "k": Field(gt=0)},
}
OUTSIDE = {"ge": operator.lt, "gt": operator.le, "le": operator.gt, "lt": operator.ge}
CONTRADICTION: Literal["contradiction"] = "contradiction"

Row = TypeVar("Row", Layer, Norm)


def _in_range(row: Row) -> Row:
    for name, wanted in RANGES[type(row)].items():
        value = getattr(row, name)
        for number in value if isinstance(value, tuple) else (value,):
            for limit in wanted.metadata if isinstance(number, int | float) else ():
                if any(outside(number, getattr(limit, at)) for at, outside in OUTSIDE.items() if hasattr(limit, at)):
                    raise ValueError(f"{name}: {value} is out of range ({limit})")
    return row


class Section(BaseModel):
    """A group of keys: frozen, no unknown keys, no text for a number, no true for 1, no infinities."""

    # Rows of the net arrive as dataclass instances; revalidating checks the types of their fields too.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        revalidate_instances="always",
        use_attribute_docstrings=True,
    )


class Data(Section):
    """What is read, and how it becomes batches."""

    root: str = Field("shards", min_length=1)
    """Directory of the shards and their manifests, as alexnet_dist.pack writes them; or its http, https or s3 URL."""
    cache: str = Field("~/.cache/alexnet_dist", min_length=1)
    """Directory where a node keeps the remote shards that it reads; its processes, and runs, share it."""
    cache_bytes: int = Field(20_000_000_000, ge=1)
    """Bytes that the directory of remote shards may grow to."""
    global_batch: int = Field(128, ge=1)
    """Images in one optimizer step over all replicas (§5)."""
    workers: int = Field(2, ge=0)
    """Decoding processes per rank; 0: the rank decodes itself."""
    lanes: int = Field(32, ge=1)
    """Sequences the epoch is cut into, each read by one loader at a time; part of the order of the samples."""
    window: int = Field(2048, ge=1)
    """Samples of a lane that are shuffled together; part of the order of the samples."""
    crop: int = Field(224, ge=1, le=LARGEST_SIDE)
    """Side in pixels of the square patch the net sees, 7/8 of the packed size (§4.1)."""
    flip: bool = True
    """Whether training images are mirrored left to right with probability 1/2 (§4.1)."""
    colour_noise: float = Field(0.1, ge=0)
    """Standard deviation of the three draws along the principal components of RGB (§4.1); 0: none."""
    eval_rows: int = Field(128, ge=1, le=65_536)
    """Images a replica evaluates at once."""
    max_bad_fraction: float = Field(0.001, ge=0, le=1)
    """Fraction of the samples read that may be damaged and replaced before the run stops."""


class Model(Section):
    """The net, as one value."""

    classes: int = Field(1000, ge=2)
    """Classes, which are the outputs of the last layer (§3.5)."""
    activation: Literal["relu", "tanh"] = "relu"
    """Non-linearity after every layer but the last (§3.1)."""
    input_scale: float = Field(1.0, gt=0)
    """What mean-subtracted pixels on the 0-255 scale are multiplied by before the first layer (the paper: 1)."""
    norm: Annotated[Norm, AfterValidator(_in_range)] = Norm()
    """Constants of local response normalisation (§3.3)."""
    layers: Mapping[str, Annotated[Layer, AfterValidator(_in_range)]] = Field(default_factory=lambda: {**PAPER_LAYERS})
    """A row a layer (§3.5, figure 2); in files a row lies over the paper's row of that name, and null removes it."""


class Optim(Section):
    """The update rule and the schedule of its learning rate (§5)."""

    rule: Literal["sgd", "lars"] = "sgd"
    """sgd: one rate for all layers (§5); lars: one for each tower's half of a layer's weights (arXiv 1708.03888)."""
    trust_coefficient: float = Field(0.001, gt=0)
    """Rule lars: the learning rate is multiplied by this times ||w|| / (||gradient|| + weight_decay * ||w||)."""
    learning_rate: float = Field(0.01, gt=0)
    """Learning rate at the start, for the mean gradient of a global batch (§5)."""
    reference_batch: int | None = Field(None, ge=1)
    """If set, learning_rate is multiplied by data.global_batch over this, linear scaling (arXiv 1706.02677)."""
    warmup_epochs: float = Field(0.0, ge=0)
    """First epochs, also fractional: of their n steps, step i from 1 has i / n of the rate (arXiv 1706.02677)."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Fraction of the velocity that each step keeps (§5)."""
    weight_decay: float = Field(0.0005, ge=0)
    """Fraction of a weight that each step takes off, times the learning rate; biases do not decay (§5)."""
    bias_learning_rate_factor: float = Field(1.0, ge=0)
    """Learning rate of the biases over that of the weights (§5: equal; the 2012 source: 2)."""
    schedule: Literal["plateau", "epochs"] = "plateau"
    """When the rate drops: plateau, the validation error stops improving (§5); epochs, at drop_epochs."""
    drop_factor: float = Field(10.0, gt=1)
    """What the learning rate is divided by at a drop (§5)."""
    patience: int = Field(5, ge=1)
    """Plateau: evaluations in a row without improvement before a drop; our choice, the authors judged by eye (§5)."""
    least_improvement: float = Field(0.0005, ge=0, lt=1)
    """Plateau: decrease of the top-1 error, as a fraction, that counts as improvement; our choice (§5: none given)."""
    max_drops: int = Field(3, ge=0)
    """Plateau: drops in the whole run (§5: three)."""
    drop_epochs: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Schedule epochs: the increasing epochs, also fractional, after which the rate drops; none: it stays."""


class Topology(Section):
    """How towers lie on devices."""

    layout: Literal["auto", "paired", "fused"] = "auto"
    """paired: two ranks a replica, one a tower (§3.5); fused: one rank; auto: paired under torchrun, else fused."""
    timeout_s: float = Field(600.0, ge=1, le=86_400)
    """Seconds a rank waits for the others before the run fails."""
    share_device: bool = False
    """Lets the ranks of a node share GPUs: a test layout, without a speed claim."""


class Train(Section):
    """How a step is computed."""

    accumulate: int = Field(1, ge=1)
    """Micro-batches a replica splits its share of the global batch into, to save memory; the gradient is the same."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Type of activations; weights are float64 in float64, otherwise float32."""
    deterministic: bool = False
    """Whether torch refuses every operation that is not reproducible."""
    channels_last: bool = False
    """Whether maps lie in memory with their channels last: on GPUs faster in bfloat16, on CPUs not."""
    compile_norm: bool = False
    """Whether local response normalisation is compiled at start (torch.compile; needs a C++ compiler on a CPU)."""
    tf32: bool = False
    """Whether GPUs multiply float32 in TF32: faster, with 10 bits of mantissa."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the net lies; auto: on GPUs where there are any."""


class Run(Section):
    """How long, from which seed, and what is kept of it."""

    directory: str = Field("runs/paper", min_length=1)
    """Directory of the run; a run that is already in it is continued."""
    epochs: int = Field(90, ge=1)
    """Passes through the training set (§5: roughly 90)."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps at which to stop; null: epochs decide."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of initial weights, order, augmentation and dropout."""
    save_every: int = Field(1000, ge=1)
    """Steps between checkpoints; the end of the run is saved in any case."""
    keep: int = Field(3, ge=1)
    """Checkpoints that are kept, the newest."""
    log_every: int = Field(20, ge=1)
    """Steps between lines of metrics.jsonl."""
    evaluate_every: int = Field(1, ge=0)
    """Epochs between evaluations on the validation set; 0: never, and no validation shards are needed."""
    record_samples: bool = False
    """Whether each rank writes the ids of its samples to samples-rank-N.jsonl, step by step."""


class Metrics(Section):
    """Where Prometheus reads the run."""

    port: int | None = Field(9410, ge=0, le=65535)
    """Port of local rank 0, the next ones for the others; 0: any free port; null: no metrics are served."""
    address: str = Field("127.0.0.1", min_length=1)
    """Address to listen on; only 127.0.0.1 keeps the metrics on the machine."""


class Config(Section):
    """One run, complete. Raises pydantic.ValidationError for values out of range or that contradict each other."""

    data: Data = Data()
    model: Model = Model()
    optim: Optim = Optim()
    topology: Topology = Topology()
    train: Train = Train()
    run: Run = Run()
    metrics: Metrics = Metrics()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if found := list(contradictions(self)):
            report = "\n".join(contradiction.text for contradiction in found)
            raise PydanticCustomError(CONTRADICTION, "{report}", {"report": report, "contradictions": found})
        return self


class Contradiction(NamedTuple):
    """Values that are each in range but cannot stand together: the keys, most telling first, and what is wrong."""

    keys: tuple[str, ...]
    text: str


def geometry(config: Config) -> Geometry:
    """Return the net that a configuration describes, for images of data.crop pixels a side.

    Raises ValueError naming the key below model, what was found, what was expected.
    """
    model = config.model
    return Geometry(model.layers, model.classes, config.data.crop, model.activation, model.norm, model.input_scale)


def contradictions(config: Config) -> Iterator[Contradiction]:
    """Yield what is wrong between keys that are each in range."""
    data, optim, train = config.data, config.optim, config.train
    if data.global_batch < train.accumulate:
        yield Contradiction(
            ("train.accumulate", "data.global_batch"),
            f"train.accumulate = {train.accumulate}: expected at most data.global_batch = {data.global_batch}:"
            " each micro-batch takes at least one image",
        )
    drops = list(optim.drop_epochs)
    if any(later <= earlier for earlier, later in itertools.pairwise(drops)):
        yield Contradiction(("optim.drop_epochs",), f"optim.drop_epochs = {drops}: expected increasing numbers")
    if drops and optim.schedule == "plateau":
        yield Contradiction(
            ("optim.drop_epochs", "optim.schedule"),
            f"optim.drop_epochs = {drops}: read by optim.schedule = epochs only; expected [] with plateau",
        )
    if drops and min(drops) < optim.warmup_epochs:
        yield Contradiction(
            ("optim.warmup_epochs", "optim.drop_epochs"),
            f"optim.warmup_epochs = {optim.warmup_epochs:g}: expected at most {min(drops):g}, the first of"
            " optim.drop_epochs: the rate drops after its warm-up",
        )
    if config.model.norm.size % 2 == 0:
        text = f"model.norm.size = {config.model.norm.size}: expected an odd number: the window is centred on a map"
        yield Contradiction(("model.norm.size",), text)
    try:
        geometry(config)
    except ValueError as error:
        where = str(error).partition(": ")[0]
        yield Contradiction((f"model.{where}", "data.crop", "model.classes", "model.layers"), f"model.{error}")
