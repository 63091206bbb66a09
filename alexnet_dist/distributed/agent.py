"""What torchrun's agent loads from this package: rendezvous that survives lost nodes, and an end to useless restarts.

torchrun imports every entry point of the group `torchrun.handlers` (pyproject.toml) before it makes its rendezvous. So
plain `torchrun` with its defaults is enough; nothing here runs in a rank. All programs of the environment are launched
in this way; for them only addresses and the lifetime of the store change.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import create_rdzv_handler
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from alexnet_dist import process
from alexnet_dist.distributed import final_error
from alexnet_dist.distributed.address import is_loopback, source_address

Creator = Callable[[RendezvousParameters], RendezvousHandler]


class EndingHandler(RendezvousHandler):
    """A rendezvous that ends the job instead of joining again, once a rank has reported an error that would recur."""

    def __init__(self, inner: RendezvousHandler, error_file: Path) -> None:
        """Take torch's handler and the file in which a rank of this agent reports such an error."""
        self._inner, self._error_file = inner, error_file

    def next_rendezvous(self) -> RendezvousInfo:
        """Join the next round; raises ChildFailedError, which torchrun prints and ends with, for a reported error."""
        error = final_error.read(self._error_file)
        if error is not None:
            failure = ProcessFailure(error.local_rank, error.pid, error.exit_code, str(self._error_file))
            raise ChildFailedError("training", {error.rank: failure})
        return self._inner.next_rendezvous()

    @property
    def use_agent_store(self) -> bool:
        """Return whether ranks use the agent's store."""
        return self._inner.use_agent_store

    def get_backend(self) -> str:
        """Return the name of the rendezvous backend."""
        return self._inner.get_backend()

    def is_closed(self) -> bool:
        """Return whether the rendezvous is closed."""
        return self._inner.is_closed()

    def set_closed(self) -> None:
        """Close the rendezvous for all nodes."""
        self._inner.set_closed()  # type: ignore[no-untyped-call]

    def num_nodes_waiting(self) -> int:
        """Return how many nodes wait to be let in."""
        return self._inner.num_nodes_waiting()

    def get_run_id(self) -> str:
        """Return the id of the rendezvous."""
        return self._inner.get_run_id()

    def shutdown(self) -> bool:
        """Close the rendezvous."""
        return self._inner.shutdown()


def static() -> Creator:
    """Return what makes the handler of `--rdzv-backend=static`, the default of several nodes without an endpoint."""
    return _replace("static", _static)


def c10d() -> Creator:
    """Return what makes the handler of `--rdzv-backend=c10d` and `--standalone`."""
    return _replace("c10d", _c10d)


def _replace(backend: str, creator: Creator) -> Creator:
    # `register` rejects a name that torch has registered already, and there is no public way to remove one.
    rendezvous_handler_registry._registry.pop(backend, None)
    return creator


def _static(parameters: RendezvousParameters) -> RendezvousHandler:
    return EndingHandler(create_rdzv_handler(parameters), final_error.announce())


def _c10d(parameters: RendezvousParameters) -> RendezvousHandler:
    if parameters.local_addr is None:
        parameters.local_addr = local_address(parameters.endpoint, parameters.max_nodes)
    if parameters.max_nodes > 1:
        # Each agent keeps the address of its first shared store, so a node that comes back would use another one.
        process.unshare_agent_store()
    backend, store = create_backend(parameters)
    return EndingHandler(create_handler(store, backend, parameters), final_error.announce())


def local_address(endpoint: str, max_nodes: int) -> str | None:
    """Return the address of this node from which the rendezvous endpoint is reached; None: torch uses the host name.

    A host name need not resolve on another node, nor even on its own. A loopback address is of use on one node only.
    """
    host, port = parse_rendezvous_endpoint(endpoint, default_port=0)
    address = source_address(host, port)
    return None if address is None or (max_nodes > 1 and is_loopback(address)) else address
