"""Who may read a rank's metrics, and how: over TLS with a certificate, with a user name and a password, or anybody."""

from __future__ import annotations

import base64
import hmac
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.system.wording import counted

CERT_KEY, KEY_KEY, PASSWORD_KEY = "metrics.tls_cert", "metrics.tls_key", "metrics.password_file"
CERTIFICATE, PRIVATE_KEY = "-----BEGIN CERTIFICATE-----", "PRIVATE KEY-----"  # in PEM files
ADVICE = {
    CERT_KEY: "name the PEM file of the certificate",
    KEY_KEY: "name the PEM file of the certificate's key, or give it to the user of the run",
    PASSWORD_KEY: "write one line user:password into a file that only the user of the run can read",
}
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Access:
    """What a client needs. tls: of the server; None: plain HTTP. credentials: "user:password"; None: none are asked."""

    tls: ssl.SSLContext | None = None
    credentials: bytes | None = None

    @property
    def scheme(self) -> str:
        """The scheme of a URL of the metrics."""
        return "https" if self.tls else "http"

    def admits(self, head: bytes) -> bool:
        """Return whether a request with this head has the credentials, in a time that does not depend on them."""
        if self.credentials is None:
            return True
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            kind, _, token = value.strip().partition(b" ")
            if name.lower() == b"authorization" and kind.lower() == b"basic":
                return hmac.compare_digest(token.strip(), base64.b64encode(self.credentials))
        return False

    def warning(self, address: str) -> str:
        """Return what is open to a network if the metrics are served on an address that others reach, or nothing."""
        if self.credentials is None:
            return (
                f"are served on {address} without a password, to anyone who can reach it; with"
                " metrics.address=127.0.0.1 only this machine can, with metrics.password_file who has the password"
            )
        if self.tls is None:
            return (
                f"are served on {address} without TLS: the password can be read on the network; set {CERT_KEY} and"
                f" {KEY_KEY}"
            )
        return ""


ANYBODY = Access()


def open_access(tls_cert: str | None, tls_key: str | None, password_file: str | None) -> Access:
    """Read the files that the configuration names; both of TLS or neither.

    Raises UserError naming the key and the file if one is missing, readable by others, or not what is expected.
    """
    credentials = None if password_file is None else read_credentials(PASSWORD_KEY, password_file)
    tls = None if tls_cert is None or tls_key is None else _server_context(tls_cert, tls_key)
    return Access(tls, credentials)


def read_credentials(key: str, name: str) -> bytes:
    """Return the line user:password of a file that others cannot read; UserError if it is none."""
    lines = _read(key, name, is_secret=True).splitlines()
    user, _, password = lines[0].partition(":") if len(lines) == 1 else ("", "", "")
    if not (user and password and lines[0].isprintable()):
        # Without what was found: it may be a part of the password.
        raise UserError(f"{key}: {name}: {counted(len(lines), 'line')}, not one of user:password; {ADVICE[key]}")
    return lines[0].encode()


def read_certificate(key: str, name: str) -> str:
    """Return the text of a file with a certificate in PEM; UserError if it is none."""
    text = _read(key, name)
    if CERTIFICATE not in text:
        raise UserError(f"{key}: {name}: not a certificate: expected PEM with {CERTIFICATE}; {ADVICE[key]}")
    return text


def pinned_context(certificate: str) -> ssl.SSLContext:
    """Return a client's context that trusts the first certificate of a file, whatever it is called, and no other.

    Whoever has that file knows the server: only its key can answer.
    """
    first = CERTIFICATE + certificate.split(CERTIFICATE)[1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not have signed itself
    try:
        context.load_verify_locations(cadata=first)
    except (ssl.SSLError, ValueError) as error:
        raise UserError(f"{CERT_KEY}: the certificate is damaged ({error}); {ADVICE[CERT_KEY]}") from None
    return context


def _server_context(tls_cert: str, tls_key: str) -> ssl.SSLContext:
    """Return a server's context with a certificate and its key; UserError if they are none, or not of each other."""
    pinned_context(read_certificate(CERT_KEY, tls_cert))
    text = _read(KEY_KEY, tls_key, is_secret=True)
    if PRIVATE_KEY not in text:
        raise UserError(f"{KEY_KEY}: {tls_key}: not a key: expected PEM with {PRIVATE_KEY}; {ADVICE[KEY_KEY]}")
    if "ENCRYPTED" in text:
        raise UserError(
            f"{KEY_KEY}: {tls_key}: a key with a pass phrase, which nobody can type in; expected one without:"
            " openssl pkey -in ENCRYPTED -out PLAIN makes it"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A password, as openssl asks the terminal for one that it misses.
        context.load_cert_chain(_path(CERT_KEY, tls_cert), _path(KEY_KEY, tls_key), password="")
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        raise UserError(
            f"{KEY_KEY}: {tls_key}: cannot be used with the certificate in {CERT_KEY}, {tls_cert} ({reason}); set"
            " both to files that belong together"
        ) from None
    return context


def _path(key: str, name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UserError(f"{key}: {name}: no user of that name with a home directory; {ADVICE[key]}") from None


def _read(key: str, name: str, *, is_secret: bool = False) -> str:
    """Return the text of a small file; UserError if it cannot be read, or if it is a secret that others can read."""
    path = _path(key, name)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(MOST_BYTES)
    except OSError as error:
        raise UserError(f"{key}: {name} cannot be read: {error.strerror}; {ADVICE[key]}") from None
    if is_secret and status.st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise UserError(
            f"{key}: {name}: all users of this machine can read or change it (mode"
            f" {stat.S_IMODE(status.st_mode):04o}); run chmod o-rwx {path}"
        )
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UserError(f"{key}: {name}: not a text file; {ADVICE[key]}") from None
