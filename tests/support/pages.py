"""A net and its page, served while the tests of a module run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from alexnet_dist.predict.server import Page
from alexnet_dist.runs.trained import TrainedNet, load_run
from support.runs import write_run

MARKUP = "<b onmouseover=alert(1)>"


@pytest.fixture(scope="module", name="net")
def net_fixture(tmp_path_factory: pytest.TempPathFactory) -> TrainedNet:
    """A net whose directory and classes have markup in their names."""
    net = load_run(write_run(tmp_path_factory.mktemp("home") / "a<b>")[0])
    return replace(net, classes=tuple(f"{MARKUP} {name}" for name in net.classes))


@pytest.fixture(scope="module", name="page")
def page_fixture(net: TrainedNet) -> Iterator[Page]:
    with Page(net, 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
