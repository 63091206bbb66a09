"""The structure of a JPEG, and whether its picture is damaged (ITU T.81, annex B).

libjpeg decodes what it can, fills the rest with grey, and reports only the first of its warnings. Damage is:

- a scan that ends early: the file is truncated, with or without an end marker, or its frame header is too tall or wide;
- an invalid code, and a restart marker out of turn or with bytes left over before it;
- bytes left over after the last block that would fill another row or column: the frame header is too short or narrow;
- a run of zero bytes among the codes, unless zeros stand for plain blocks there;
- a missing scan, such as the last ones of a progressive file.

Harmless are a missing end marker, bytes between segments or after the end, zeros or a few other bytes after the last
block, and an unknown version or parameter in a header. Not detected are bytes of a scan replaced by other values than
zero, which often give valid codes, and a too large frame header of an arithmetically coded file, which has no end.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import simplejpeg

START, END = b"\xff\xd8", b"\xff\xd9"
DHT, EOI, SOS, APP0 = 0xC4, 0xD9, 0xDA, 0xE0
FRAMES = frozenset(range(0xC0, 0xD0)) - {DHT, 0xC8, 0xCC}
LAST_HUFFMAN = 0xC7  # the frames above are coded arithmetically
# Not the escapes, restart markers and fill bytes within a scan. A literal first byte makes the search 20 times faster.
MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
ZERO_RUN = bytes(16)

Segment = tuple[int, int, int]  # marker, offset of the marker, offset after the segment's parameters


class Frame(NamedTuple):
    """What a JPEG's headers say.

    kind: the frame's marker. factors: a byte for each component, whose halves are its horizontal and vertical sampling
    factors. scanned: the number of components in the first scan. scan: the offset of its data. Without a scan, scanned
    is 0, and scan is the size of the file.
    """

    kind: int
    height: int
    width: int
    factors: bytes
    scanned: int
    scan: int

    @property
    def components(self) -> int:
        """The number of components."""
        return len(self.factors)

    @property
    def baseline(self) -> bool:
        """True for the kind of frame that every decoder reads."""
        return self.kind == 0xC0

    @property
    def has_one_scan(self) -> bool:
        """True for a sequential frame with one scan for all of its components."""
        return not self.progressive and self.scanned == self.components

    @property
    def progressive(self) -> bool:
        """True if several scans refine each other."""
        return self.kind & 3 == 2


def read_frame(data: bytes) -> Frame | None:
    """Read a JPEG's headers; None if no complete frame header precedes the first scan."""
    frame = None
    for marker, start, end in _segments(data):
        if marker in FRAMES and frame is None and end - start >= 10:
            height, width = (int.from_bytes(data[start + offset : start + offset + 2]) for offset in (5, 7))
            frame = Frame(marker, height, width, data[start + 11 : end : 3], 0, len(data))
        elif marker == SOS:
            return frame and frame._replace(scanned=int.from_bytes(data[start + 4 : start + 5]), scan=end)
    return frame


def is_damaged(data: bytes, frame: Frame) -> bool:
    """Return whether the picture of a JPEG is damaged, although the strict decoder accepts it."""
    if not frame.has_one_scan:
        return not _is_complete(data, frame, list(_segments(data)))
    # Of every 15 zeros, eight begin at a multiple of eight: this takes a quarter of the time of a search.
    words = np.frombuffer(data, np.uint64, len(data) // 8)[-(-frame.scan // 8) :]
    return int(np.count_nonzero(words)) < len(words) and _has_zero_codes(data, frame, list(_segments(data)))


def repaired(data: bytes, frame: Frame) -> bytes | None:
    """Return a JPEG that the strict decoder rejects with an end marker added, or None if its picture is damaged.

    It is returned unchanged if simplejpeg does not support it, and so cannot judge it.
    """
    segments = list(_segments(data))
    if not segments or segments[-1][0] != EOI or not _is_complete(data, frame, segments):
        return None
    bare = _bare(data, frame, segments)
    warning, used = _warning(bare, frame), len(bare)
    # Only the first warning is reported: without the bytes left over, the next.
    while left_over := LEFT_OVER.search(warning):
        used -= int(left_over[1])
        warning = _warning(bare[:used], frame)
    if warning:
        return None if warning.startswith("Corrupt JPEG data") else data
    if used == len(bare):
        damaged = _has_zero_codes(data, frame, segments)
    else:
        damaged = _has_lost_blocks(data, frame, segments, bare, used)
    return None if damaged else data + END


def _segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments after the start marker, as libjpeg finds them, and the end marker, which may be missing.

    Stops before the end marker at a truncated segment. A scan's data, between its segment and the next, is read only
    when the next segment is asked for.
    """
    offset = 2
    while match := MARKER.search(data, offset):
        start, marker = match.start(), data[match.end() - 1]
        if marker == EOI:
            yield EOI, start, start
            return
        offset = start + 2 + max(2, int.from_bytes(data[start + 2 : start + 4]))
        if offset > len(data):
            return
        yield marker, start, offset
    yield EOI, len(data), len(data)


def _is_complete(data: bytes, frame: Frame, segments: Sequence[Segment]) -> bool:
    """Return whether the scans send every coefficient of every component to its lowest bit."""
    lowest_bits: dict[int, bytearray] = {}  # by component, for each coefficient; 255 if it was never sent
    for marker, start, end in segments:
        if marker != SOS:
            continue
        first, last, bits = data[end - 3 : end] if frame.progressive else (0, 63, 0)
        for component in data[start + 5 : end - 3 : 2]:
            coefficients = lowest_bits.setdefault(component, bytearray(b"\xff" * 64))
            coefficients[first : last + 1] = bytes([bits & 15]) * (last + 1 - first)
    return len(lowest_bits) == frame.components and not any(map(any, lowest_bits.values()))


def _has_zero_codes(data: bytes, frame: Frame, segments: Sequence[Segment]) -> bool:
    """Return whether the one scan of a JPEG has a run of zeros that no encoder writes.

    A Huffman code of zeros alone stands for the first symbol of its table. If that is 0, the end of a block, in every
    AC table, zeros are plain blocks. It is not in the standard tables, which hold if there are none.
    """
    if not frame.has_one_scan or frame.kind > LAST_HUFFMAN or ZERO_RUN not in data[frame.scan : segments[-1][1]]:
        return False
    first_symbols = set()
    for marker, start, end in segments:
        offset = start + 4
        while marker == DHT and offset + 17 < end:
            if data[offset] >> 4 == 1:
                first_symbols.add(data[offset + 17])
            offset += 17 + sum(data[offset + 1 : offset + 17])
    return first_symbols != {0}


def _bare(data: bytes, frame: Frame, segments: Sequence[Segment]) -> bytearray:
    """Return a JPEG with a frame's size, without an end marker, and without metadata and bytes between segments.

    Those harm no picture, but a warning about them would hide one about the scans, as would the parameters of a
    sequential scan, which some encoders leave zero.
    """
    size = struct.pack(">HH", min(frame.height, 65535), min(frame.width, 65535))
    bare = bytearray(START)
    for (marker, start, end), (_, following, _) in pairwise(segments):
        if marker < APP0:
            bare += data[start:end]
        if marker in FRAMES and end - start >= 10:
            bare[start - end + 5 : start - end + 9] = size
        if marker == SOS:
            if not frame.progressive:
                bare[-3:] = b"\0\x3f\0"
            bare += data[end:following]
    return bare


def _warning(bare: bytearray, frame: Frame) -> str:
    """Return the strict decoder's message about a bare JPEG, or an empty text."""
    try:
        simplejpeg.decode_jpeg(bytes(bare + END), "CMYK" if frame.components == 4 else "RGB", strict=True)
    except ValueError as error:
        return str(error)
    return ""


def _has_lost_blocks(data: bytes, frame: Frame, segments: Sequence[Segment], bare: bytearray, used: int) -> bool:
    """Return whether the bytes after the last block, apart from zeros, may be blocks of the picture.

    They may be if zeros among the used ones have put the decoder out of step, or if they suffice for another row or
    column of blocks. A scan that refines others cannot be extended: there, the limit is the average size of 8 rows or
    columns of pixels.
    """
    scan = bare[bare.rfind(b"\xff\xda", 0, used) : used]
    if frame.has_one_scan and ZERO_RUN in scan:
        return True
    before = LEFT_OVER.search(_warning(bare.rstrip(b"\0"), frame))
    if before is None:
        return False
    if frame.progressive:
        return int(before[1]) * max(frame.height, frame.width) >= 8 * len(scan)
    across = down = 8  # of a single component, whatever its factors
    if frame.components > 1:
        across, down = (8 * max(factors) for factors in zip(*(divmod(f, 16) for f in frame.factors), strict=True))
    for larger in (frame._replace(height=frame.height + down), frame._replace(width=frame.width + across)):
        warning = _warning(_bare(data, larger, segments).rstrip(b"\0"), frame)
        after = LEFT_OVER.search(warning)
        # After the last restart interval the decoder looks for the next one, and drops the same bytes as before.
        if not warning or (after and int(after[1]) < int(before[1])):
            return True
    return False
