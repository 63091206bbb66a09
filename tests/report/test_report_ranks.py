"""The metrics of a live run's ranks: read from what they serve, and from targets that answer with anything else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from alexnet_dist import config as configs
from alexnet_dist.monitoring.access import open_access
from alexnet_dist.monitoring.metrics import Metrics
from alexnet_dist.monitoring.server import PageServer
from alexnet_dist.monitoring.targets import Target, write_targets
from alexnet_dist.monitoring.timeline import Times
from alexnet_dist.report.ranks import MOST_RANKS, Ranks, parse_metrics, read_ranks
from alexnet_dist.runs.directory import CONFIG, TARGETS
from alexnet_dist.training.inputs import metrics_files
from support.certificates import Certificate, make_certificate, write_password
from support.runs import settings


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """The ports of two ranks, of which the second has made no step."""
    ranks = [Metrics("run", rank, 0, rank, 2, ("crc",)) for rank in range(2)]
    for _ in range(4):
        ranks[0].observe_step(
            step=1,
            epoch=0.1,
            images_share=2.0,
            times=Times(0.5, {"forward": 0.3, "data_wait": 0.2}, {}),
            link_bytes_sent=0.0,
            link_bytes_received=0.0,
            flops=1.0,
        )
    ranks[0].add_bad_sample("crc")
    served = [port for rank in ranks if (port := rank.serve()) is not None]
    yield served
    for rank in ranks:
        rank.close()


def listed(*endpoints: str) -> list[Target]:
    """Return targets of one node."""
    return [Target(0, "node", endpoint) for endpoint in endpoints]


def test_the_phases_of_the_ranks_that_answer(tmp_path: Path, ports: list[int]) -> None:
    with closing(PageServer(lambda: b"something else 1\n", "127.0.0.1", 0)) as other:
        addresses = [f"127.0.0.1:{port}" for port in (ports[1], ports[0], other.port)]
        write_targets(tmp_path / TARGETS, listed(*addresses, "127.0.0.1:1", "no address"))
        found = read_ranks(tmp_path)
    assert isinstance(found, Ranks)
    assert [rank.rank for rank in found.answered] == [0, 1]
    first, second = found.answered
    assert (first.steps, second.steps) == (4, 0)
    assert first.phase_s["forward"] == pytest.approx(1.2)
    assert first.phase_s["data_wait"] == pytest.approx(0.8)
    assert first.counts["bad_samples_total"] == 1
    assert found.silent == [addresses[2], "127.0.0.1:1", "no address"]


@pytest.fixture
def secured(tmp_path: Path, certificate: Certificate) -> Iterator[Path]:
    """The directory of a run whose rank serves over TLS and has a password."""
    words = (f"metrics.tls_cert={certificate.cert}", f"metrics.tls_key={certificate.key}")
    config = settings(*words, f"metrics.password_file={write_password(tmp_path / 'password')}")
    (tmp_path / CONFIG).write_text(configs.to_yaml(config))
    with closing(Metrics("run", 0, 0, 0, 1, ())) as metrics:
        # An address that the certificate does not name.
        port = metrics.serve("127.0.0.2", access=open_access(*metrics_files(config)))
        write_targets(tmp_path / TARGETS, [Target(0, "node", f"127.0.0.2:{port}", scheme="https")])
        yield tmp_path


def test_a_rank_over_tls_with_a_password_is_read_with_the_files_of_its_run(secured: Path) -> None:
    found = read_ranks(secured)
    assert isinstance(found, Ranks)
    assert ([rank.rank for rank in found.answered], found.silent, found.problem) == ([0], [], "")


def test_a_rank_that_cannot_be_read_is_named_with_the_reason(secured: Path, tmp_path: Path) -> None:
    config = (secured / CONFIG).read_text()
    ((endpoint,),) = ([group["targets"][0] for group in json.loads((secured / TARGETS).read_text())],)

    def silent() -> tuple[list[str], str]:
        found = read_ranks(secured)
        assert isinstance(found, Ranks)
        assert found.answered == []
        return list(found.silent), found.problem

    other = make_certificate(tmp_path / "other")
    (secured / CONFIG).write_text(re.sub(r"tls_cert: .*", f"tls_cert: {other.cert}", config))
    assert silent() == ([f"{endpoint} (its certificate is another, or has expired)"], "")
    (secured / CONFIG).write_text(config)
    write_password(secured / "password", "prometheus:other")
    assert silent() == ([f"{endpoint} (its password is another)"], "")
    (secured / "password").unlink()
    (missing,), problem = silent()
    assert missing == endpoint
    assert problem.startswith(f"metrics.password_file: {secured / 'password'} cannot be read: No such file")


def test_of_many_ranks_some_are_asked(tmp_path: Path) -> None:
    write_targets(tmp_path / TARGETS, listed(*["127.0.0.1:1"] * (MOST_RANKS + 5)))
    found = read_ranks(tmp_path)
    assert isinstance(found, Ranks)
    assert (len(found.silent), found.not_shown) == (MOST_RANKS, 5)


@pytest.mark.parametrize("content", ["", "[", "3", "[3]", '[{"targets": 3}]', json.dumps({"targets": []})])
def test_targets_that_are_none(content: str, tmp_path: Path) -> None:
    (tmp_path / TARGETS).write_text(content)
    found = read_ranks(tmp_path)
    assert isinstance(found, str)
    assert "not a list of targets" in found


def test_a_run_that_is_not_active(tmp_path: Path) -> None:
    assert "the run is not active" in str(read_ranks(tmp_path))


def test_metrics_of_something_else() -> None:
    with pytest.raises(ValueError, match="no steps of a rank"):
        parse_metrics("up 1\n")
