"""Who may read the metrics: the files that say so, passwords, and what is warned of."""

from __future__ import annotations

import base64
import ssl
import subprocess
from pathlib import Path

import pytest

from alexnet_dist import config as configs
from alexnet_dist.errors import UserError
from alexnet_dist.monitoring.access import Access, open_access, read_credentials
from alexnet_dist.training.inputs import metrics_files
from support.certificates import Certificate, make_certificate, write_password
from support.runs import settings

SECRET = "s3cret"
KEY = "metrics.password_file"


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((b"GET /metrics HTTP/1.1", b"Host: x", *lines))


def basic(text: bytes) -> bytes:
    return b"Basic " + base64.b64encode(text)


@pytest.mark.parametrize(
    ("lines", "admitted"),
    [
        ([b"Authorization: " + basic(b"me:pass:word")], True),
        ([b"authorization:   basic " + base64.b64encode(b"me:pass:word")], True),
        ([b"Accept: */*", b"AUTHORIZATION: " + basic(b"me:pass:word")], True),
        ([b"Authorization: " + basic(b"me:pass:wore")], False),
        ([b"Authorization: " + basic(b"me:pass:word2")], False),
        ([b"Authorization: " + basic(b"")], False),
        ([b"Authorization: Bearer " + base64.b64encode(b"me:pass:word")], False),
        ([b"Authorization: Basic"], False),
        ([b"X-Authorization: " + basic(b"me:pass:word")], False),
        ([b"Authorization: Basic \xff\xfe"], False),
        ([b"Authorization: " + basic(b"x:y"), b"Authorization: " + basic(b"me:pass:word")], False),
        ([], False),
    ],
)
def test_only_the_right_password_admits(lines: list[bytes], admitted: bool) -> None:
    assert Access(credentials=b"me:pass:word").admits(head(*lines)) == admitted
    assert Access().admits(head(*lines))


def test_the_request_line_is_no_header() -> None:
    assert not Access(credentials=b"me:x").admits(b"Authorization: " + basic(b"me:x") + b"\r\nHost: x")


def test_what_the_files_say(tmp_path: Path, certificate: Certificate) -> None:
    password = write_password(tmp_path / "password", "me:pass:wörd")
    access = open_access(str(certificate.cert), str(certificate.key), str(password))
    assert (access.scheme, access.credentials) == ("https", "me:pass:wörd".encode())
    assert access.tls is not None
    assert access.tls.minimum_version == ssl.TLSVersion.TLSv1_2
    assert (open_access(None, None, None), Access().scheme) == (Access(), "http")


@pytest.mark.parametrize("line", ["", SECRET, f":{SECRET}", "me:", f"me:{SECRET}\nyou:{SECRET}", f"me:{SECRET}\x07"])
def test_a_password_file_that_is_none_is_refused_and_not_repeated(line: str, tmp_path: Path) -> None:
    path = write_password(tmp_path / "password", line)
    with pytest.raises(UserError, match=rf"^metrics\.password_file: {path}: \d lines?, not one of user:") as raised:
        read_credentials(KEY, str(path))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(("mode", "refused"), [(0o604, True), (0o602, True), (0o640, False), (0o400, False)])
def test_a_secret_that_all_can_read_is_refused(mode: int, refused: bool, tmp_path: Path) -> None:
    path = write_password(tmp_path / "password")
    path.chmod(mode)
    if refused:
        with pytest.raises(UserError, match=rf"mode {mode:04o}\); run chmod o-rwx {path}"):
            read_credentials(KEY, str(path))
    else:
        assert read_credentials(KEY, str(path)) == b"prometheus:a b:c"


def test_files_that_are_not_there_or_not_text(tmp_path: Path, certificate: Certificate) -> None:
    gone = str(tmp_path / "gone")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff" * 9)
    for files, words in (
        ((gone, str(certificate.key), None), rf"metrics\.tls_cert: {gone} cannot be read: No such file"),
        ((str(certificate.cert), gone, None), rf"metrics\.tls_key: {gone} cannot be read: No such file"),
        ((None, None, gone), rf"metrics\.password_file: {gone} cannot be read: No such file"),
        ((None, None, str(tmp_path)), r"metrics\.password_file: .* cannot be read: Is a directory"),
        ((str(binary), str(certificate.key), None), r"metrics\.tls_cert: .*binary: not a text file"),
        ((None, None, "~nobody-of-that-name/x"), r"metrics\.password_file: ~nobody.*: no user of that name"),
    ):
        with pytest.raises(UserError, match=words):
            open_access(*files)


def test_a_certificate_and_a_key_that_do_not_belong_together(tmp_path: Path, certificate: Certificate) -> None:
    other = make_certificate(tmp_path / "other")
    cert, key = str(certificate.cert), str(certificate.key)
    for files, words in (
        ((cert, str(other.key)), r"metrics\.tls_key: .*cannot be used with the certificate in metrics\.tls_cert"),
        ((key, cert), r"metrics\.tls_cert: .*key\.pem: not a certificate"),
        ((cert, cert), r"metrics\.tls_key: .*(mode \d+\)|not a key)"),
    ):
        with pytest.raises(UserError, match=words):
            open_access(*files, None)
    damaged = tmp_path / "damaged.pem"
    damaged.write_text(certificate.cert.read_text().replace("M", "!", 1))
    with pytest.raises(UserError, match=r"metrics\.tls_cert: the certificate is damaged \("):
        open_access(str(damaged), key, None)
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", locked],
        check=True,
        capture_output=True,
    )
    locked.chmod(0o600)
    with pytest.raises(UserError, match=r"metrics\.tls_key: .*a key with a pass phrase"):
        open_access(cert, str(locked), None)


@pytest.mark.parametrize(("given", "missing"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_a_certificate_needs_its_key(given: str, missing: str) -> None:
    with pytest.raises(UserError, match=rf"metrics\.{given} = x: expected metrics\.{missing} too"):
        configs.load([], [f"metrics.{given}=x"])


def test_nothing_is_read_for_metrics_that_are_not_served() -> None:
    words = ("metrics.tls_cert=a", "metrics.tls_key=b", "metrics.password_file=c")
    assert metrics_files(settings(*words)) == ("a", "b", "c")
    assert metrics_files(settings(*words, "metrics.port=null")) == (None, None, None)


def test_the_warning_of_an_address_that_others_reach(certificate: Certificate) -> None:
    tls = open_access(str(certificate.cert), str(certificate.key), None).tls
    assert "on 0.0.0.0 without a password" in Access().warning("0.0.0.0")
    assert "without a password" in Access(tls=tls).warning("0.0.0.0")
    assert "without TLS: the password can be read" in Access(credentials=b"a:b").warning("0.0.0.0")
    assert Access(tls, b"a:b").warning("0.0.0.0") == ""
