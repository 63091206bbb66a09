"""Receive one remote file by fsspec, as it streams in: bounded, watched for stalls, tried again with growing waits.

fsspec keeps a thread for its sockets, and a thread does not survive a fork: only processes that will not fork any
more may call `download`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Protocol

from alexnet_dist.errors import RunError, UserError

CHUNK_BYTES = 1 << 20
# What a server must at least deliver on average, whatever it does within `stall_s`.
LEAST_BYTES_PER_S = 50_000
# Client errors that time may mend: request timeout, too early, too many requests.
PASSING_STATUSES = (408, 425, 429)


@dataclass(frozen=True)
class RetryPolicy:
    """How long to hope. waits_s: seconds before each further try. stall_s: seconds without a byte that end a try."""

    waits_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    stall_s: float = 30.0


class Sink(Protocol):
    """Where the bytes of a download go."""

    def begin(self) -> None:
        """Drop what an earlier try has left."""
        ...

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        ...

    def problem(self) -> str | None:
        """Return what is wrong with all the bytes received, found and expected, or None."""
        ...


def load_library(url: str) -> None:
    """Import what reads such URLs, so that forked processes have it already; UserError where it is not installed."""
    try:
        import fsspec

        fsspec.get_filesystem_class(url.partition(":")[0])
    except ImportError as error:
        raise UserError(
            f"data.root: {url}: reading it takes a library that is not installed ({error});"
            " pip install 'alexnet_dist[remote]'"
        ) from None


def download(url: str, most_bytes: int, sink: Sink, patience: RetryPolicy) -> None:
    """Receive the file into the sink, trying again what may pass.

    Raises UserError where the server refuses, or its bytes are still wrong at the last try, and RunError where it
    cannot be reached or fails.
    """
    problem: str | None = None
    wrong = False
    for wait_s in (0.0, *patience.waits_s):
        time.sleep(wait_s)
        sink.begin()
        try:
            received = _receive(url, most_bytes, sink, patience)
        except (UserError, RunError):
            raise
        except Exception as error:  # whatever the libraries raise: each has errors of its own, and more with each year
            problem, wrong = _words(error), False
            if _is_final(error):
                raise UserError(
                    f"{url}: {problem}; expected a file of a packed set: check data.root, and the right to read it"
                ) from None
        else:
            wrong = True
            problem = sink.problem() if received <= most_bytes else f"more than the expected {most_bytes:,} bytes"
            if problem is None:
                return
    tries = len(patience.waits_s) + 1
    if wrong:
        raise UserError(f"{url}: {problem}, {tries} times; copy the packed set there again, all of it")
    raise RunError(f"{url}: {problem}; tried {tries} times: start again when the server answers")


def _receive(url: str, most_bytes: int, sink: Sink, patience: RetryPolicy) -> int:
    """Try once; return the bytes received, which are more than most_bytes where the rest was not asked for."""
    import fsspec
    from fsspec.asyn import sync

    protocol = url.partition(":")[0]
    opening: dict[str, Any] = {}
    if protocol == "s3":
        # The patience of botocore and of s3fs would multiply ours; what else the user has configured for fsspec stays.
        configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        system = fsspec.filesystem("s3", config_kwargs={**configured, "retries": {"max_attempts": 0}})
        system.retries = 1
    else:
        import aiohttp

        system = fsspec.filesystem(protocol)
        # A size spares a HEAD; the time limits are ours below, as for s3; the bytes are to come as they are.
        opening["size"] = most_bytes
        opening["timeout"] = aiohttp.ClientTimeout(total=None)
        opening["headers"] = {"Accept-Encoding": "identity"}
    received: int = sync(system.loop, _stream, system, url, opening, most_bytes, sink, patience)
    return received


async def _stream(
    system: Any, url: str, opening: dict[str, Any], most_bytes: int, sink: Sink, patience: RetryPolicy
) -> int:
    received = 0
    end_s = time.monotonic() + patience.stall_s + most_bytes / LEAST_BYTES_PER_S
    async with asyncio.timeout(patience.stall_s):
        file = await system.open_async(url, "rb", **opening)
    try:
        while received <= most_bytes:
            async with asyncio.timeout(patience.stall_s):
                chunk = await file.read(CHUNK_BYTES)
            if not chunk:
                break
            if time.monotonic() > end_s:
                raise TimeoutError
            received += len(chunk)
            sink.write(chunk)
    finally:
        if file.r is not None:
            file.r.close()  # the connection with it, so that an endless answer ends here
        await file.close()
    return received


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of aiohttp or, behind s3fs's translation, of botocore carries."""
    status = getattr(error, "status", None)
    response = getattr(error.__cause__, "response", None)
    if status is None and isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _turns_in_circles(error: Exception) -> bool:
    """Return whether it is aiohttp's error on a chain of redirections, which has no status; it is loaded by then."""
    return type(error).__name__ == "TooManyRedirects"


def _is_final(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError) or _turns_in_circles(error):
        return True
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in PASSING_STATUSES


def _words(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file there (404)"
    if isinstance(error, TimeoutError):
        return "the server is too slow, or has stopped sending"
    if _turns_in_circles(error):
        return "the server redirects again and again, to no file"
    status = _status(error)
    said = f"{type(error).__name__}: {error!s:.200}" if str(error) else type(error).__name__
    return said if status is None else f"status {status} ({said})"
