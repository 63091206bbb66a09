"""AlexNet (Krizhevsky, Sutskever & Hinton, NIPS 2012) on linked towers, from one laptop to many nodes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_dist.nn.model import AlexNet as AlexNet

__version__ = "0.1.0"
__all__ = ["AlexNet", "__version__"]


def __getattr__(name: str) -> object:
    """Import `AlexNet` when it is first used: torch takes seconds, and `--help` does without it."""
    if name == "AlexNet":
        from alexnet_dist.nn.model import AlexNet

        return AlexNet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
