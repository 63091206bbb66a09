"""How far a long computation on images is: a bar on a terminal, else a line on stderr now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

LINE_EVERY_S = 30.0


def progress_line(name: str, done: int, images: int, elapsed_s: float) -> str:
    """Return a line with images done, images/s and the time left; elapsed_s: seconds for the images done."""
    rate = done / elapsed_s
    left = tqdm.format_interval((images - done) / rate)
    return f"{name}: {done:,} of {images:,} images, {rate:.3g} images/s, {left} left"


class Progress:
    """A context that shows how many images are done; nothing in it is written to stdout."""

    def __init__(self, name: str, images: int, keep: bool = True) -> None:
        """Begin with none of `images` done; name: of what is computed; keep: whether the bar stays when it is full."""
        self._name, self._images, self._done = name, images, 0
        self._began_s = self._shown_s = time.monotonic()
        terminal = sys.stderr.isatty()
        self._bar: tqdm[object] | None = None
        if terminal:
            self._bar = tqdm(total=images, unit=" images", desc=name, dynamic_ncols=True, leave=keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, images: int) -> None:
        """Count more images as done, at most all, and show it when it is due."""
        images = min(images, self._images - self._done)
        self._done += images
        if self._bar is not None:
            self._bar.update(images)
            return
        now_s = time.monotonic()
        if now_s - self._shown_s >= LINE_EVERY_S and self._done < self._images:
            self._shown_s = now_s
            line = progress_line(self._name, self._done, self._images, now_s - self._began_s)
            print(line, file=sys.stderr, flush=True)
