"""The configuration of a run: typed, frozen and strict; YAML files and key=value arguments change the paper's defaults.

schema: every key with its type, range and meaning. keys: the dotted names. sources: parsing, with line numbers.
named: the files of configs/ by name. loading: merging and the report of errors. printing: the configuration as YAML.
"""

from alexnet_dist.config.keys import flat
from alexnet_dist.config.loading import LoadedConfig, add_config_arguments, from_arguments, load
from alexnet_dist.config.printing import print_config, to_yaml
from alexnet_dist.config.schema import (
    Config,
    DataConfig,
    MetricsConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TopologyConfig,
    TrainConfig,
    geometry,
)

__all__ = [
    "Config",
    "DataConfig",
    "LoadedConfig",
    "MetricsConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "TopologyConfig",
    "TrainConfig",
    "add_config_arguments",
    "flat",
    "from_arguments",
    "geometry",
    "load",
    "print_config",
    "to_yaml",
]
