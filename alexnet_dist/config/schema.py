"""The schema of the configuration: its sections together, and the conflicts between keys.

The defaults are the paper's run: `Config()` equals configs/paper.yaml, and other files contain only differences.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from alexnet_dist.config.sections import (
    DataConfig,
    Event,
    MetricsConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    Section,
    TopologyConfig,
    TrainConfig,
)
from alexnet_dist.nn.geometry import Geometry

CONFLICT: Literal["conflict"] = "conflict"  # pydantic's error type for keys that disagree


class Config(Section):
    """The complete configuration of a run. Raises pydantic.ValidationError if values are out of range or conflict."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    topology: TopologyConfig = TopologyConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _no_conflicts(self) -> Self:
        if conflicts := list(find_conflicts(self)):
            report = "\n".join(conflict.text for conflict in conflicts)
            raise PydanticCustomError(CONFLICT, "{report}", {"report": report, "conflicts": conflicts})
        return self


class Conflict(NamedTuple):
    """Values that are in range but incompatible: the keys, the likeliest culprit first, and the message."""

    keys: tuple[str, ...]
    text: str


def geometry(config: Config) -> Geometry:
    """Return the geometry of the net that a configuration describes, for images of data.crop pixels a side.

    Raises ValueError naming the key below model, the value and what was expected.
    """
    model = config.model
    return Geometry(
        layers=model.layers,
        classes=model.classes,
        side=config.data.crop,
        activation=model.activation,
        norm=model.norm,
        spatial_norm=model.spatial_norm,
        input_scale=model.input_scale,
        towers=model.towers,
    )


def find_conflicts(config: Config) -> Iterator[Conflict]:
    """Yield the conflicts between keys whose values are each in range."""
    data, model, optim, train = config.data, config.model, config.optim, config.train
    if data.global_batch < train.accumulate:
        yield Conflict(
            ("train.accumulate", "data.global_batch"),
            f"train.accumulate = {train.accumulate}: expected at most data.global_batch = {data.global_batch}:"
            " each micro-batch needs at least one image",
        )
    drops = list(optim.drop_epochs)
    if any(later <= earlier for earlier, later in itertools.pairwise(drops)):
        yield Conflict(("optim.drop_epochs",), f"optim.drop_epochs = {drops}: expected increasing numbers")
    if drops and optim.schedule == "plateau":
        yield Conflict(
            ("optim.drop_epochs", "optim.schedule"),
            f"optim.drop_epochs = {drops}: used only by optim.schedule = epochs; expected [] with plateau",
        )
    if drops and min(drops) < optim.warmup_epochs:
        yield Conflict(
            ("optim.warmup_epochs", "optim.drop_epochs"),
            f"optim.warmup_epochs = {optim.warmup_epochs:g}: expected at most {min(drops):g}, the first of"
            " optim.drop_epochs: the learning rate drops after the warm-up",
        )
    if (layers := list(config.run.initial_layers)) and config.run.initial_weights is None:
        yield Conflict(
            ("run.initial_layers", "run.initial_weights"),
            f"run.initial_layers = {layers}: expected [] without run.initial_weights, the run to copy them from",
        )
    if config.run.initial_step is not None and config.run.initial_weights is None:
        yield Conflict(
            ("run.initial_step", "run.initial_weights"),
            f"run.initial_step = {config.run.initial_step}: expected null without run.initial_weights",
        )
    if (config.metrics.tls_cert is None) != (config.metrics.tls_key is None):
        missing, given = ("tls_key", "tls_cert") if config.metrics.tls_key is None else ("tls_cert", "tls_key")
        yield Conflict(
            (f"metrics.{given}", f"metrics.{missing}"),
            f"metrics.{given} = {getattr(config.metrics, given)}: expected metrics.{missing} too, or null: TLS needs"
            " a certificate and its key",
        )
    yield from _rate_conflicts(config)
    for key, norm, centre in (("norm", model.norm, "channel"), ("spatial_norm", model.spatial_norm, "pixel")):
        if norm.size % 2 == 0:
            key = f"model.{key}.size"
            yield Conflict((key,), f"{key} = {norm.size}: expected an odd number: the window is centred on a {centre}")
    try:
        geometry(config)
    except ValueError as error:
        where = f"model.{error}".partition(": ")[0]  # a layer, or a field of it
        layer = ".".join(where.split(".")[:3])
        yield Conflict((where, layer, "data.crop", "model.classes", "model.layers"), f"model.{error}")


def _rate_conflicts(config: Config) -> Iterator[Conflict]:
    """Yield the conflicts between learning rates and the events that set them."""
    optim, events = config.optim, config.run.events
    if optim.bias_learning_rate is not None and optim.bias_learning_rate_factor != 1:
        yield Conflict(
            ("optim.bias_learning_rate", "optim.bias_learning_rate_factor"),
            f"optim.bias_learning_rate = {optim.bias_learning_rate:g}: expected null with"
            f" optim.bias_learning_rate_factor = {optim.bias_learning_rate_factor:g}: both set the biases' learning"
            " rate; keep one of them",
        )
    for name in optim.layer_learning_rates:
        if name not in config.model.layers:
            yield Conflict(
                ("optim.layer_learning_rates", "model.layers"), f"optim.layer_learning_rates: {_no_layer(name, config)}"
            )
    for earlier, later in itertools.pairwise(event.epoch for event in events):
        if later <= earlier:
            yield Conflict(
                ("run.events",), f"run.events: epoch {later:g} after epoch {earlier:g}; expected increasing numbers"
            )
    for event in events:
        yield from _event_conflicts(event, config)


def _event_conflicts(event: Event, config: Config) -> Iterator[Conflict]:
    """Yield what is wrong with one event."""
    where, optim = f"run.events: epoch {event.epoch:g}", config.optim
    if event == Event(epoch=event.epoch):
        yield Conflict(
            ("run.events",), f"{where}: changes nothing; expected one of {', '.join(list(Event.model_fields)[1:])}"
        )
    for name in event.layer_learning_rates:
        if name not in config.model.layers:
            yield Conflict(("run.events", "model.layers"), f"{where}: layer_learning_rates: {_no_layer(name, config)}")
    if event.learning_rate is not None and (optim.schedule == "plateau" or optim.drop_epochs):
        other = "optim.drop_epochs" if optim.drop_epochs else "optim.schedule = plateau"
        yield Conflict(
            ("run.events", "optim.schedule", "optim.drop_epochs"),
            f"{where}: sets the learning rate, and so does {other}; expected optim.schedule = epochs and"
            " optim.drop_epochs = [] with such an event",
        )
    if event.epoch < optim.warmup_epochs:
        yield Conflict(
            ("run.events", "optim.warmup_epochs"),
            f"{where}: expected at least optim.warmup_epochs = {optim.warmup_epochs:g}: changes follow the warm-up",
        )


def _no_layer(name: str, config: Config) -> str:
    return f"there is no layer {name}; expected one of {', '.join(config.model.layers)}"
