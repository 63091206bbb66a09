"""URLs that a user names: of the schemes that are read, with a host, without a password."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from alexnet_dist.errors import UserError

SCHEMES = ("http", "https", "s3")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def is_url(text: str) -> bool:
    """Return whether a text is a URL, of whatever scheme, and not the name of a local file or folder."""
    return SCHEME.match(text) is not None


def redact(text: str) -> str:
    """Return a URL with dots in place of what may be a user name and password."""
    return re.sub("//.*@", "//...@", text)


def parse_url(key: str, text: str, target: str) -> SplitResult | None:
    """Return the parts of a URL, or None if the text is no URL and thus the name of a local file or folder.

    key: the key or option that has the text, for messages; target: what it names, "folder" or "file".
    Raises UserError for a scheme that is not read, such as `pipe:`, without a host, and for a URL with a user name or
    password, which would be written into config.yaml, messages and logs.
    """
    scheme = SCHEME.match(text)
    if scheme is None:
        return None
    redacted = redact(text)
    if scheme[1].lower() not in SCHEMES:
        raise UserError(
            f"{key}: {redacted}: scheme {scheme[1]!r} is not supported; expected a {target}, or a URL that begins"
            f" with {', '.join(f'{known}://' for known in SCHEMES)} (a {target} with a colon in its name: ./{redacted})"
        )
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # not quoted: its text may contain a part of the password
        raise UserError(
            f"{key}: {redacted}: not a valid URL; expected SCHEME://HOST:PORT/{target.upper()}, with a port from 1 to"
            " 65535 or without :PORT, and an IPv6 address in [brackets]"
        ) from None
    if not has_host:
        raise UserError(f"{key}: {redacted}: expected SCHEME://HOST/{target.upper()}")
    if "@" in parts.netloc:
        raise UserError(
            f"{key}: {parts.scheme}://...@{parts.hostname}: contains a user name or password; remove it and"
            " put it into fsspec's configuration or the AWS libraries' own files"
        )
    return parts
