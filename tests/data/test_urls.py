"""URLs that users name: their parts, and no password in any message."""

from __future__ import annotations

import pytest

from alexnet_dist.data.urls import parse_url, redact
from alexnet_dist.errors import UserError


@pytest.mark.parametrize("text", ["cat.jpg", "/a/b", "./a:b.jpg", "-", "..", "a/http://b"])
def test_other_names_are_of_files(text: str) -> None:
    assert parse_url("IMAGE", text, "file") is None


@pytest.mark.parametrize("text", ["http://host/cat.jpg?size=2", "https://host:8080/a%20b", "s3://bucket/cat.jpg"])
def test_a_url_is_parsed_whole(text: str) -> None:
    parts = parse_url("IMAGE", text, "file")
    assert parts is not None
    assert parts.geturl() == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("file:///etc/passwd", r"IMAGE: file:///etc/passwd: scheme 'file' is not supported; expected a file, or a URL"),
        ("a:b.jpg", r"a file with a colon in its name: \./a:b\.jpg"),
        ("http:///cat.jpg", r"expected SCHEME://HOST/FILE"),
        ("http://host:0/cat.jpg", r"expected SCHEME://HOST/FILE"),
        ("http://host:99999/cat.jpg", r"not a valid URL; expected SCHEME://HOST:PORT/FILE"),
        ("http://me:secret@host/cat.jpg", r"IMAGE: http://\.\.\.@host: contains a user name or password"),
        ("ftp://me:secret@host/cat.jpg", r"IMAGE: ftp://\.\.\.@host/cat\.jpg: scheme 'ftp' is not supported"),
        ("http://me:secret/@host/cat.jpg", r"IMAGE: http://\.\.\.@host/cat\.jpg: not a valid URL"),
    ],
)
def test_what_is_not_read_is_refused_without_a_password(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        parse_url("IMAGE", text, "file")
    assert "secret" not in str(caught.value)


def test_what_may_be_a_password_is_not_repeated() -> None:
    assert redact("https://me:1?secret@host/x") == "https://...@host/x"
    assert redact("https://host/x") == "https://host/x"
