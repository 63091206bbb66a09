"""The configuration of a run: typed, frozen and strict; YAML files and key=value arguments change the paper's defaults.

schema: every key with its type, range and meaning. keys: the dotted names. sources: parsing, with line numbers.
named: the files of configs/ by name. loading: merging and the report of errors. arguments: the command line.
printing: the configuration as YAML. Names below are imported when they are first used: pydantic takes 0.3 s.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_dist.config.arguments import add_config_arguments as add_config_arguments
    from alexnet_dist.config.arguments import from_arguments as from_arguments
    from alexnet_dist.config.arguments import positive as positive
    from alexnet_dist.config.keys import flat as flat
    from alexnet_dist.config.loading import LoadedConfig as LoadedConfig
    from alexnet_dist.config.loading import load as load
    from alexnet_dist.config.printing import print_config as print_config
    from alexnet_dist.config.printing import to_yaml as to_yaml
    from alexnet_dist.config.schema import Config as Config
    from alexnet_dist.config.schema import geometry as geometry
    from alexnet_dist.config.sections import Event as Event

_MODULE_OF = {
    "Config": "schema",
    "Event": "sections",
    "LoadedConfig": "loading",
    "add_config_arguments": "arguments",
    "flat": "keys",
    "from_arguments": "arguments",
    "geometry": "schema",
    "load": "loading",
    "positive": "arguments",
    "print_config": "printing",
    "to_yaml": "printing",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> object:
    """Import one of the names above from its module."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
