"""Stream one remote file through fsspec: bounded in size, with stall detection and retries after growing waits.

fsspec keeps a thread for its sockets, and a thread does not survive a fork. Call `download` only in processes that do
not fork afterwards.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Protocol

from alexnet_dist.errors import RunError, UserError

CHUNK_BYTES = 1 << 20
# The lowest average speed accepted of a server that never pauses for `stall_s`.
MIN_BYTES_PER_S = 50_000
# What is expected behind a URL, and what to do if its bytes are wrong.
SET_FILE = "a file of a packed set: check data.root, and your permission to read it"
SET_AGAIN = "copy the whole packed set there again"
# Client errors worth retrying: request timeout, too early, too many requests.
RETRYABLE_STATUSES = (408, 425, 429)


@dataclass(frozen=True)
class RetryPolicy:
    """waits_s: seconds before each retry. stall_s: seconds without a byte after which an attempt is given up."""

    waits_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    stall_s: float = 30.0


class Sink(Protocol):
    """The destination of a download's bytes."""

    def reset(self) -> None:
        """Discard the bytes of an earlier attempt."""
        ...

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        ...

    def problem(self) -> str | None:
        """Return what is wrong with the complete file, found and expected, or None."""
        ...


def load_library(url: str) -> None:
    """Import the library for such URLs, so that forked processes have it; UserError if it is not installed."""
    try:
        import fsspec

        fsspec.get_filesystem_class(url.partition(":")[0])
    except ImportError as error:
        raise UserError(
            f"{url}: reading it needs a library that is not installed ({error}); pip install 'alexnet_dist[remote]'"
        ) from None


def download(
    url: str, max_bytes: int, sink: Sink, retry_policy: RetryPolicy, what: str = SET_FILE, again: str = SET_AGAIN
) -> None:
    """Download a file into the sink, retrying errors that may be transient.

    Raises UserError if the server rejects the request or the last attempt still gives wrong bytes, and RunError if the
    server cannot be reached or fails.
    """
    problem: str | None = None
    is_content_wrong = False
    for wait_s in (0.0, *retry_policy.waits_s):
        time.sleep(wait_s)
        sink.reset()
        try:
            received_bytes = _receive(url, max_bytes, sink, retry_policy)
        except (UserError, RunError):
            raise
        except Exception as error:  # each library raises classes of its own, and new versions add more
            problem, is_content_wrong = _describe(error), False
            if _is_permanent(error):
                raise UserError(f"{url}: {problem}; expected {what}") from None
        else:
            is_content_wrong = True
            problem = sink.problem() if received_bytes <= max_bytes else f"more than the expected {max_bytes:,} bytes"
            if problem is None:
                return
    attempts = len(retry_policy.waits_s) + 1
    if is_content_wrong:
        raise UserError(f"{url}: {problem}, {attempts} times; {again}")
    raise RunError(f"{url}: {problem}; tried {attempts} times: start again when the server answers")


def _receive(url: str, max_bytes: int, sink: Sink, retry_policy: RetryPolicy) -> int:
    """Make one attempt; return the bytes received, more than max_bytes if it stopped at the limit."""
    import fsspec
    from fsspec.asyn import sync

    protocol = url.partition(":")[0]
    open_options: dict[str, Any] = {}
    if protocol == "s3":
        # Retries of botocore and s3fs would multiply ours; keep everything else that the user configured for fsspec.
        configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        system = fsspec.filesystem("s3", config_kwargs={**configured, "retries": {"max_attempts": 0}})
        system.retries = 1
    else:
        import aiohttp

        system = fsspec.filesystem(protocol)
        # A size saves a HEAD request. The time limits are those below, as for s3. No compression: the bytes are hashed.
        open_options["size"] = max_bytes
        open_options["timeout"] = aiohttp.ClientTimeout(total=None)
        open_options["headers"] = {"Accept-Encoding": "identity"}
    received_bytes: int = sync(system.loop, _stream, system, url, open_options, max_bytes, sink, retry_policy)
    return received_bytes


async def _stream(
    system: Any, url: str, open_options: dict[str, Any], max_bytes: int, sink: Sink, retry_policy: RetryPolicy
) -> int:
    received_bytes = 0
    end_s = time.monotonic() + retry_policy.stall_s + max_bytes / MIN_BYTES_PER_S
    async with asyncio.timeout(retry_policy.stall_s):
        file = await system.open_async(url, "rb", **open_options)
    try:
        while received_bytes <= max_bytes:
            async with asyncio.timeout(retry_policy.stall_s):
                chunk = await file.read(CHUNK_BYTES)
            if not chunk:
                break
            if time.monotonic() > end_s:
                raise TimeoutError
            received_bytes += len(chunk)
            sink.write(chunk)
    finally:
        if file.r is not None:
            file.r.close()  # closes the connection too, which ends an endless response
        await file.close()
    return received_bytes


def _status(error: BaseException) -> int | None:
    """Return the HTTP status carried by an error of aiohttp, or by the botocore error behind one of s3fs."""
    status = getattr(error, "status", None)
    response = getattr(error.__cause__, "response", None)
    if status is None and isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _is_redirect_loop(error: Exception) -> bool:
    """Return whether aiohttp gave up on a chain of redirects; its error has no status. Avoids importing aiohttp."""
    return type(error).__name__ == "TooManyRedirects"


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError) or _is_redirect_loop(error):
        return True
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in RETRYABLE_STATUSES


def _describe(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file there (404)"
    if isinstance(error, TimeoutError):
        return "the server is too slow, or has stopped sending"
    if _is_redirect_loop(error):
        return "the server redirects endlessly"
    status = _status(error)
    text = f"{type(error).__name__}: {error!s:.200}" if str(error) else type(error).__name__
    return text if status is None else f"status {status} ({text})"
