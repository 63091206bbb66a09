"""AlexNet (Krizhevsky, Sutskever & Hinton, NIPS 2012) on linked towers, from one laptop to many nodes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_dist.nn.model import AlexNet as AlexNet
    from alexnet_dist.runs.exported import plain_alexnet as plain_alexnet
    from alexnet_dist.runs.trained import load_run as load_run

__version__ = "0.1.0"
__all__ = ["AlexNet", "__version__", "load_run", "plain_alexnet"]

_MODULE_OF_NAME = {"AlexNet": "nn.model", "load_run": "runs.trained", "plain_alexnet": "runs.exported"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: torch takes seconds, and `--help` does without it."""
    if name in _MODULE_OF_NAME:
        import importlib

        return getattr(importlib.import_module(f"alexnet_dist.{_MODULE_OF_NAME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
