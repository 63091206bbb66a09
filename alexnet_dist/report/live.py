"""The live page: the same drawings, made again from what the runs have recorded and what their ranks answer."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from threading import Lock

from alexnet_dist.errors import UserError
from alexnet_dist.report import overview
from alexnet_dist.report.history import History, read_history
from alexnet_dist.report.markup import STYLE
from alexnet_dist.report.net import NetPictures, net_pictures
from alexnet_dist.report.page import live_body
from alexnet_dist.report.ranks import read_ranks
from alexnet_dist.runs import checkpoint
from alexnet_dist.runs.directory import CHECKPOINTS
from alexnet_dist.system.local_page import LocalHandler, LocalServer

PAGE = Path(__file__).with_name("live.html")
NONCE, STYLES = "NONCE", "STYLES"  # in the page
LEAST_S = 1.0  # between two readings, however many tabs ask


class Live(LocalServer):
    """Serves the page of some runs until it is shut down; they may be live or finished."""

    def __init__(self, directories: Sequence[Path], names: Sequence[str], port: int) -> None:
        """Listen on a port of this machine, 0: any free one. Raises OSError."""
        self._runs = list(zip(directories, names, strict=True))
        self._lock, self._state, self._made_s = Lock(), b"", float("-inf")
        self._nets: dict[Path, tuple[int | None, NetPictures | str]] = {}
        super().__init__(port, _Handler)

    def state(self) -> bytes:
        """Return the drawings as JSON, at most LEAST_S old; or the error that keeps them from being made."""
        with self._lock:
            if time.monotonic() - self._made_s >= LEAST_S:
                try:
                    self._state = json.dumps(self._draw()).encode()
                except (UserError, OSError) as error:
                    self._state = json.dumps({"error": str(error)}).encode()
                self._made_s = time.monotonic()
            return self._state

    def _draw(self) -> dict[str, str]:
        histories = [read_history(directory, name) for directory, name in self._runs]
        nets = [self._net(history) for history in histories]
        ranks = [read_ranks(history.directory) for history in histories]
        return {"title": overview.title(histories), "body": live_body(histories, nets, ranks)}

    def _net(self, history: History) -> NetPictures | str:
        """Return the pictures of a run's net; a checkpoint is read once."""
        newest = max(checkpoint.finished_steps(history.directory / CHECKPOINTS), default=None)
        known = self._nets.get(history.directory)
        if known is None or known[0] != newest:
            known = self._nets[history.directory] = newest, net_pictures(history.directory, None, with_held_out=False)
        return known[1]


class _Handler(LocalHandler):
    """GET / is the page, GET /state its drawings."""

    server: Live

    def get(self) -> None:
        """Send the page or its drawings."""
        if self.path == "/":
            self.answer_page(PAGE.read_text("utf-8"), NONCE, {STYLES: STYLE.read_text("utf-8")})
        elif self.path == "/state":
            self.answer(HTTPStatus.OK, "application/json", self.server.state())
        else:
            self.fail(HTTPStatus.NOT_FOUND, "there is no such page; open /")
