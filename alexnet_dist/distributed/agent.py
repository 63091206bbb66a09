"""What torchrun's agent loads from this package: rendezvous that survives lost nodes, and an end to useless restarts.

torchrun imports every entry point of the group `torchrun.handlers` (pyproject.toml) before it makes its rendezvous. So
plain `torchrun` with its defaults is enough; nothing here runs in a rank. All programs of the environment are launched
in this way; for them only addresses and the lifetime of the store change.
"""

from __future__ import annotations

import atexit
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import create_rdzv_handler
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.elastic.utils.store import barrier

from alexnet_dist.distributed import final_error
from alexnet_dist.distributed.address import address_towards, is_loopback, is_own_address, resolves
from alexnet_dist.distributed.agent_ending import end_with_our_sentence, quiet
from alexnet_dist.system import environment, resources

# In place of torch's defaults, by which 45 s pass from the loss of a node to the next round: a node is lost after 8 s
# without a sign of it, and a round with its fewest nodes waits 5 s for more. A later node joins the next round.
ELASTIC_DEFAULTS = {"keep_alive_interval": 2, "keep_alive_max_attempt": 4, "last_call_timeout": 5}
EXIT_BARRIER, EXIT_BARRIER_S = "torchelastic/agent/terminal_state", 5  # the key is torch.distributed.elastic's
# After an error that ends the job, for how long the ranks of other nodes can still read what led to it.
LAST_READ_S = 3.0
Creator = Callable[[RendezvousParameters], RendezvousHandler]


@dataclass(frozen=True)
class Host:
    """Whether this node serves the rendezvous, and the address under which other nodes reach it, if known."""

    serves: bool
    address: str | None


class EndingHandler(RendezvousHandler):
    """A rendezvous that ends the job instead of joining again, once a rank has reported an error that would recur."""

    def __init__(self, inner: RendezvousHandler, error_file: Path, host: Host | None = None) -> None:
        """Take torch's handler and the file in which a rank of this agent reports such an error.

        host: of a rendezvous that numbers nodes anew in each round, and whose first node then serves the ranks' store;
        None: the inner handler's numbers and its store are kept.
        """
        self._inner, self._error_file, self._host = inner, error_file, host
        self._round: RendezvousInfo | None = None
        self._served: TCPStore | None = None  # only kept: the store ends with the object
        atexit.register(self._pass_exit_barrier)

    def next_rendezvous(self) -> RendezvousInfo:
        """Join the next round; raises ChildFailedError, which torchrun prints and ends with, for a reported error."""
        error = final_error.read(self._error_file)
        if error is not None:
            if self._round is not None and self._round.world_size > 1 and self._round.rank == 0:
                time.sleep(LAST_READ_S)  # this agent serves the store
            failure = ProcessFailure(error.local_rank, error.pid, error.exit_code, str(self._error_file))
            raise ChildFailedError("training", {error.rank: failure})
        self._round = self._inner.next_rendezvous()
        if self._host is not None:
            self._round, self._served = host_first(self._round, self._host)
        return self._round

    def _pass_exit_barrier(self) -> None:
        """Count this agent at torchrun's exit barrier: an agent that leaves without it holds the others for 300 s."""
        if self._round is None or self._round.world_size == 1:
            return
        # A store behind a broken network may never answer; by default this signal ends the process.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(EXIT_BARRIER_S)
        with suppress(DistError), quiet():
            barrier(self._round.store, self._round.world_size, EXIT_BARRIER, barrier_timeout=0.1)
        signal.alarm(0)

    @property
    def use_agent_store(self) -> bool:
        """Return whether an agent serves the ranks' store, so that it outlives every rank."""
        return self._host is not None or self._inner.use_agent_store

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
    environment.have_agent_handle(signal.SIGUSR1)
    return EndingHandler(create_rdzv_handler(parameters), _announce())


def _c10d(parameters: RendezvousParameters) -> RendezvousHandler:
    environment.have_agent_handle(signal.SIGUSR1)
    host, port = parse_rendezvous_endpoint(parameters.endpoint, default_port=0)
    if parameters.local_addr is None:
        parameters.local_addr = local_address(host, port, parameters.max_nodes)
    numbering = None
    if parameters.max_nodes > 1:
        # Each agent keeps the address of its first shared store, so a node that comes back would use another one.
        environment.unshare_agent_store()
        numbering = Host(is_own_address(host), parameters.local_addr)
    if not resolves(resources.host_name()):
        # torch looks its own host name up to find out whether it serves the store.
        parameters.config.setdefault("is_host", is_own_address(host))
    if parameters.min_nodes < parameters.max_nodes:
        for name, value in ELASTIC_DEFAULTS.items():
            parameters.config.setdefault(name, value)
    backend, store = create_backend(parameters)
    return EndingHandler(create_handler(store, backend, parameters), _announce(), numbering)


def _announce() -> Path:
    """Name the file to the ranks, and have the agent end as a run of this package does if they are of it."""
    end_with_our_sentence()
    return final_error.announce()


def local_address(host: str, port: int, max_nodes: int) -> str | None:
    """Return the address of this node from which the rendezvous' host is reached; None: torch uses the host name.

    A host name need not resolve on another node, nor even on its own. A loopback address is of use on one node only.
    """
    try:
        address = address_towards(host, port or 1)
    except OSError:
        return None
    return None if max_nodes > 1 and is_loopback(address) else address


def host_first(info: RendezvousInfo, host: Host) -> tuple[RendezvousInfo, TCPStore | None]:
    """Return a round as a node sees it, with the host moved to the front, and the ranks' store if this node serves it.

    torch orders nodes by address, so rank 0 would move to another node when one is added. The node that serves the
    rendezvous is the one that no round can lose, so the run directory is best there, and rank 0 with it.
    """
    store = PrefixStore("alexnet_dist", info.store)
    store.set(f"serves/{info.rank}", str(host.serves))
    if info.rank == 0:
        serve = [store.get(f"serves/{rank}") == b"True" for rank in range(info.world_size)]
        store.set("first", str(serve.index(True) if True in serve else 0))
    rank, served = moved_to_front(info.rank, int(store.get("first"))), None
    if rank == 0:
        served = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        store.set("address", host.address or resources.host_name())
        store.set("port", str(served.port))
    where = RendezvousStoreInfo(store.get("address").decode(), int(store.get("port")))
    return RendezvousInfo(info.store, rank, info.world_size, where), served


def moved_to_front(rank: int, first: int) -> int:
    """Return the rank of a node after node `first` is moved to the front and the others keep their order."""
    if rank == first:
        return 0
    return rank + 1 if rank < first else rank
