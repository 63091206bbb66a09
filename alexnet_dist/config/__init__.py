"""The configuration of a run: typed, frozen and strict; YAML files and key=value words over the paper's defaults.

schema: every key with its type, range and meaning. keys: the dotted names. sources: YAML with line numbers.
loading: merging and the report of problems. printing: the resolved configuration as YAML.
"""

from alexnet_dist.config.keys import flat
from alexnet_dist.config.loading import Resolved, add_config_arguments, from_arguments, load
from alexnet_dist.config.printing import print_config, to_yaml
from alexnet_dist.config.schema import Config, Data, Metrics, Model, Optim, Run, Topology, Train, geometry

__all__ = [
    "Config",
    "Data",
    "Metrics",
    "Model",
    "Optim",
    "Resolved",
    "Run",
    "Topology",
    "Train",
    "add_config_arguments",
    "flat",
    "from_arguments",
    "geometry",
    "load",
    "print_config",
    "to_yaml",
]
