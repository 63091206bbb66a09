"""The sections of the configuration: every key of a run with its type, range, unit and source in the paper.

If the paper gives no number (the plateau schedule's patience, the checkpoint interval), the key's docstring says so.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from alexnet_dist.nn.geometry import PAPER_LAYERS, SPATIAL_NORM, Layer, Norm

LARGEST_SIDE = 4096  # pixels; far above any use, and small enough that no size computed from it overflows
# The ranges of the fields of geometry.py's dataclasses, which define their types and meanings. The range of a list
# applies to each of its numbers.
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

Block = TypeVar("Block", Layer, Norm)
Rate = Annotated[float, Field(ge=0)]


def _in_range(block: Block) -> Block:
    for name, allowed in RANGES[type(block)].items():
        value = getattr(block, name)
        for number in value if isinstance(value, tuple) else (value,):
            for limit in allowed.metadata if isinstance(number, int | float) else ():
                if any(outside(number, getattr(limit, op)) for op, outside in OUTSIDE.items() if hasattr(limit, op)):
                    raise ValueError(f"{name}: {value} is out of range ({limit})")
    return block


class Section(BaseModel):
    """A group of keys: frozen and strict; rejects unknown keys, "1" or true for 1, infinities and NaN."""

    # Layers are passed as dataclass instances; revalidating them checks the types of their fields too.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        revalidate_instances="always",
        use_attribute_docstrings=True,
    )


class DataConfig(Section):
    """The data set and how batches are made from it."""

    root: str = Field("shards", min_length=1)
    """Directory that alexnet_dist.pack wrote, with the shards and their manifests; or its http, https or s3 URL."""
    cache: str = Field("~/.cache/alexnet_dist", min_length=1)
    """Directory that caches remote shards on a node; all processes and runs on the node share it."""
    cache_bytes: int = Field(20_000_000_000, ge=1)
    """Largest size of the cache in bytes."""
    global_batch: int = Field(128, ge=1)
    """Images in one optimizer step over all replicas (§5)."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = 2
    """Decoding processes per rank; 0: decode in the rank's own process; auto: one a core that no rank needs."""
    lanes: int = Field(32, ge=1)
    """Sequences that an epoch is split into, each read by one loader at a time; determines the order of the samples."""
    window: int = Field(2048, ge=1)
    """Samples of a lane that are shuffled together; determines the order of the samples."""
    crop: int = Field(224, ge=1, le=LARGEST_SIDE)
    """Side in pixels of the square crop that the net reads; in the paper 7/8 of the packed size (§4.1)."""
    random_crop: bool = True
    """Whether each training image is cropped at a random position (§4.1); otherwise at its centre."""
    flip: bool = True
    """Whether training images are mirrored left to right with probability 1/2 (§4.1)."""
    colour_noise: float = Field(0.1, ge=0)
    """Standard deviation of the three random factors of the principal components of RGB (§4.1); 0: no colour noise."""
    train_divisor: float = Field(1.0, gt=0)
    """Divisor of training images, after the colour noise; others are not divided (the 2012 source: 1.1)."""
    eval_rows: int = Field(128, ge=1, le=65_536)
    """Images in one evaluation batch of a replica."""
    max_bad_fraction: float = Field(0.001, ge=0, le=1)
    """Largest fraction of damaged samples, which are substituted; above it the run stops."""


class ModelConfig(Section):
    """The architecture of the net."""

    classes: int = Field(1000, ge=2)
    """Number of classes, equal to the outputs of the last layer (§3.5)."""
    activation: Literal["relu", "tanh"] = "relu"
    """Non-linearity after every layer but the last (§3.1)."""
    input_scale: float = Field(1.0, gt=0)
    """Factor applied to the mean-subtracted pixels, on the 0-255 scale, before the first layer (the paper: 1)."""
    norm: Annotated[Norm, AfterValidator(_in_range)] = Norm()
    """Constants of local response normalisation (§3.3)."""
    spatial_norm: Annotated[Norm, AfterValidator(_in_range)] = SPATIAL_NORM
    """Constants of the normalisation of layers with spatial_norm; size in pixels (cnorm2 in layers-145.cfg)."""
    towers: int = Field(2, ge=1, le=2)
    """Towers of the net (§3.2); 1: a net on one device, such as the half net to which §3.2 compares the paper's."""
    layers: Mapping[str, Annotated[Layer, AfterValidator(_in_range)]] = Field(default_factory=lambda: {**PAPER_LAYERS})
    """The layers by name (§3.5, figure 2); in files an entry changes fields of the paper's layer; null removes it."""


class OptimConfig(Section):
    """The update rule and the schedule of its learning rate (§5)."""

    rule: Literal["sgd", "lars"] = "sgd"
    """sgd: one learning rate for all layers (§5); lars: one per layer and tower, for the weights (arXiv 1708.03888)."""
    trust_coefficient: float = Field(0.001, gt=0)
    """For rule lars: the learning rate is multiplied by this times ||w|| / (||gradient|| + weight_decay * ||w||)."""
    learning_rate: float = Field(0.01, gt=0)
    """Initial learning rate, for the mean gradient of a global batch (§5)."""
    reference_batch: int | None = Field(None, ge=1)
    """If set, learning_rate is multiplied by data.global_batch / reference_batch, linear scaling (arXiv 1706.02677)."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Warm-up in epochs, fractions allowed: step i of its n, from 1, uses i / n of learning_rate (arXiv 1706.02677)."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Fraction of the velocity that each step keeps (§5)."""
    weight_decay: float = Field(0.0005, ge=0)
    """Fraction of a weight, times the learning rate, that each step subtracts; biases do not decay (§5)."""
    bias_learning_rate_factor: float = Field(1.0, ge=0)
    """Ratio of the biases' learning rate to that of the weights (§5: equal; the 2012 source: 2)."""
    bias_learning_rate: float | None = Field(None, ge=0)
    """If set, the biases' own learning rate, which drops do not change (layer-params-145.cfg: 0.02 to the end)."""
    layer_learning_rates: Mapping[str, Rate] = Field(default_factory=dict)
    """Learning rates of the weights of single layers, by name, which drops do not change; 0: frozen."""
    schedule: Literal["plateau", "epochs"] = "plateau"
    """When the learning rate drops. plateau: the validation error stops improving (§5); epochs: at drop_epochs."""
    drop_factor: float = Field(10.0, gt=1)
    """Divisor of the learning rate at a drop (§5)."""
    patience: int = Field(5, ge=1)
    """For plateau: evaluations in a row without improvement before a drop. Our choice (§5: judged by the authors)."""
    least_improvement: float = Field(0.0005, ge=0, lt=1)
    """For plateau: decrease of the top-1 error, a fraction, that counts as improvement. Our choice (§5: no number)."""
    max_drops: int = Field(3, ge=0)
    """For plateau: largest number of drops in a run (§5: three)."""
    drop_epochs: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """For epochs: epochs after which the learning rate drops, increasing, fractions allowed; []: it never drops."""


class TopologyConfig(Section):
    """The mapping of towers to ranks and devices."""

    layout: Literal["auto", "paired", "fused"] = "auto"
    """paired: one rank per tower (§3.5); fused: one rank per replica; auto: paired under torchrun, else fused."""
    timeout_s: float = Field(600.0, ge=1, le=86_400)
    """Seconds that a rank waits for the others before the run fails."""
    share_device: bool = False
    """Whether ranks of a node may share a GPU; for tests, not for speed."""


class TrainConfig(Section):
    """How a step is computed: precision, memory and device."""

    accumulate: int = Field(1, ge=1)
    """Micro-batches per step and replica; more of them need less memory, and the gradient is the same."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Type of the activations; the weights are float64 if it is float64, else float32."""
    max_loss: float = Field(1000.0, gt=0)
    """Mean cross-entropy, in nats, above which training has diverged and nothing more is saved. Our choice."""
    deterministic: bool = False
    """Whether torch raises an error on operations that are not reproducible."""
    channels_last: bool = False
    """Whether feature maps use the channels-last memory format: faster on GPUs in bfloat16, not on CPUs."""
    compile_norm: Literal["auto"] | bool = "auto"
    """Whether torch.compile compiles local response normalisation, on CUDA also dropout's masks, the preparation of the
    input and a graph's update; auto: on CUDA, for a net with that norm, if it works. It needs a C++ compiler."""
    cuda_graph: bool = False
    """Whether a step is one CUDA graph: faster for small batches; for one replica on one device."""
    tf32: bool = False
    """Whether GPUs multiply float32 in TF32: faster, with a mantissa of 10 bits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the net; auto: cuda if a GPU is available, else cpu."""


class Event(Section):
    """What changes once an epoch is complete, until a later event changes it again; null: nothing."""

    epoch: float = Field(gt=0)
    """Completed epochs, fractions allowed."""
    learning_rate: float | None = Field(None, ge=0)
    """Learning rate of the weights."""
    bias_learning_rate: float | None = Field(None, ge=0)
    """Learning rate of the biases."""
    layer_learning_rates: Mapping[str, Rate] = Field(default_factory=dict)
    """Learning rates of the weights of single layers; those of other layers stay."""
    colour_noise: float | None = Field(None, ge=0)
    """Standard deviation of the colour noise; 0: none."""

    def changes(self) -> dict[str, Any]:
        """Return the epoch and what changes as plain values, without what stays."""
        return {name: value for name, value in self.model_dump().items() if value not in (None, {})}


class RunConfig(Section):
    """Length, seed, checkpoints, logs and scheduled changes of a run."""

    directory: str = Field("runs/paper", min_length=1)
    """Directory of the run; if it already contains one, that run is resumed."""
    epochs: int = Field(90, ge=1)
    """Passes through the training set (§5: roughly 90)."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps after which the run stops; null: it stops after run.epochs."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the initial weights, the order of the samples, augmentation and dropout."""
    save_every: int = Field(1000, ge=1)
    """Steps between checkpoints; the end of the run is always saved."""
    on_save_error: Literal["continue", "stop"] = "continue"
    """After a checkpoint that could not be written: train on and try again until the next one is due, or end."""
    keep: int = Field(3, ge=1)
    """Number of checkpoints kept; older ones are deleted."""
    keep_best: bool = True
    """Keep also the checkpoint with the lowest top-1 error on the validation set."""
    on_divergence: Literal["stop", "skip", "rollback"] = "stop"
    """After numbers that are not finite: the run ends, the step changes no weight, or it resumes without its batch."""
    max_skipped: int = Field(10, ge=1)
    """Batches that skip or rollback leaves out; the next one ends the run."""
    log_every: int = Field(20, ge=1)
    """Steps between lines of metrics.jsonl."""
    evaluate_every: int = Field(1, ge=0)
    """Epochs between evaluations on the validation set; 0: never, and the run needs no validation shards."""
    initial_weights: str | None = Field(None, min_length=1)
    """If set, directory of another run: a new run begins with weights of its newest checkpoint (table 2, nets *)."""
    initial_step: Annotated[int, Field(ge=0)] | Literal["best"] | None = None
    """Checkpoint of initial_weights to take: of a step, the best on its validation set, or (null) the newest."""
    initial_layers: tuple[str, ...] = ()
    """Layers to copy from initial_weights; []: all whose name and shape are the same there. The others are drawn."""
    events: tuple[Event, ...] = ()
    """Changes at given epochs, in order, as the authors made them by hand (layer-params-145.cfg); the paper: none."""
    record_samples: bool = False
    """Whether the sample ids that each rank decodes for every step are written to samples-rank-N.jsonl."""
    report: bool = True
    """Whether a finished run writes report.html, without predictions, in about a second after its end."""
    tensorboard: bool = False
    """Whether the curves are also written as TensorBoard's event files; it needs alexnet_dist[tensorboard]."""


class MetricsConfig(Section):
    """The HTTP endpoint of the Prometheus metrics."""

    port: int | None = Field(9410, ge=0, le=65535)
    """Port of local rank 0; local rank n uses port + n. 0: any free port; null: no endpoint."""
    address: str = Field("127.0.0.1", min_length=1)
    """Address to listen on; with 127.0.0.1 only this machine can read the metrics."""
    tls_cert: str | None = Field(None, min_length=1)
    """PEM file with the certificate, and its chain, with which the metrics are served over TLS; null: plain HTTP."""
    tls_key: str | None = Field(None, min_length=1)
    """PEM file with the certificate's key, without a pass phrase; needed with tls_cert."""
    password_file: str | None = Field(None, min_length=1)
    """File of one line user:password that a client must send (basic authentication); null: none is asked for."""
