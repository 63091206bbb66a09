"""A local page to try a net: drop an image, see what the net makes of it.

It listens on this machine alone, answers no page of another site, and reads at most MAX_BYTES of an image. One image is
computed at a time; others wait their turn, and more than WAITING of them are turned away.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from threading import BoundedSemaphore, Lock

from alexnet_dist.errors import UserError
from alexnet_dist.predict.explanation import explain
from alexnet_dist.runs.prediction import square_pixels
from alexnet_dist.runs.trained import TrainedNet
from alexnet_dist.system.local_page import LocalHandler, LocalServer

MAX_BYTES = 32 << 20
WAITING = 64
LENGTH_DIGITS = 15  # a longer Content-Length is no length
PAGE = Path(__file__).with_name("page.html")
NONCE, NAME, MAX = "NONCE", "RUN_NAME", "MAX_BYTES"  # in the page


class Page(LocalServer):
    """Serves the page of a net until it is shut down."""

    def __init__(self, net: TrainedNet, port: int) -> None:
        """Listen on a port of this machine, 0: any free one. Raises OSError."""
        self.net, self.computing, self.room = net, Lock(), BoundedSemaphore(WAITING)
        super().__init__(port, _Handler)


class _Handler(LocalHandler):
    """GET / is the page; POST /classify takes the contents of an image file."""

    server: Page

    def get(self) -> None:
        """Send the page."""
        if self.path != "/":
            self.fail(HTTPStatus.NOT_FOUND, "there is no such page; open /")
            return
        name = json.dumps(self.server.net.loaded.directory.resolve().name).replace("<", "\\u003c")
        # The nonce is put in first: a name that contains its placeholder stays as it is.
        self.answer_page(PAGE.read_text("utf-8"), NONCE, {NAME: name, MAX: str(MAX_BYTES)})

    def post(self) -> None:
        """Classify an image."""
        length = self.headers.get("Content-Length", "")
        if self.path != "/classify" or not (length.isdecimal() and len(length) <= LENGTH_DIGITS):
            self.fail(HTTPStatus.BAD_REQUEST, "expected the contents of an image, with their length, at /classify")
            return
        if int(length) > MAX_BYTES:
            self.fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BYTES >> 20} MiB: use the command predict")
            return
        if not self.server.room.acquire(blocking=False):
            self.fail(HTTPStatus.SERVICE_UNAVAILABLE, "too many images at once; try again")
            return
        try:
            content = self.rfile.read(int(length))
            if len(content) == int(length):
                self._classify(content)
            else:
                self.close_connection = True
        finally:
            self.server.room.release()

    def _classify(self, content: bytes) -> None:
        try:
            with self.server.computing:
                explanation = explain(self.server.net, square_pixels(self.server.net.loaded, content))
        except UserError as error:
            self.fail(HTTPStatus.UNPROCESSABLE_ENTITY, str(error).removeprefix("image: "))
            return
        except (MemoryError, RuntimeError) as error:  # torch's, such as a GPU without memory
            print(f"an image was not classified: {error}", file=sys.stderr, flush=True)
            self.fail(HTTPStatus.INTERNAL_SERVER_ERROR, "the net failed; the terminal of the command says why")
            return
        self.answer(HTTPStatus.OK, "application/json", json.dumps(asdict(explanation)).encode())
