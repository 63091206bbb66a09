"""What the members of a shard are: images, labels, metadata of a sample, or none of these."""

from __future__ import annotations

import os
from enum import Enum

from alexnet_dist.pack import tars
from alexnet_dist.pack.sources.fields import SampleFields
from alexnet_dist.pack.sources.names import base_name

# The extensions of formats that Pillow reads and data sets use. A member with another one is judged by its bytes.
IMAGE_EXTENSIONS = frozenset(
    (
        "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "ppm", "pgm", "pbm",
        "pnm", "pfm", "jp2", "j2k", "jpx", "avif", "heic", "heif", "ico", "tga", "pcx", "dds", "qoi", "psd", "sgi",
    )
)  # fmt: skip
METADATA_EXTENSIONS = frozenset(("cls", "json", "txt"))
LABEL_EXTENSION = "cls"

_MAGIC_BYTES = 16
_STARTS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\xff\x4f\xff\x51",
    b"\0\0\0\x0cjP  ", b"8BPS", b"qoif", b"DDS ",
)  # fmt: skip
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")


class Kind(Enum):
    """What a member is to its sample. METADATA: a member that may accompany an image; OTHER: anything else."""

    IMAGE = "image"
    LABEL = "label"
    METADATA = "metadata"
    OTHER = "other"


def member_kind(member: tars.Member, fields: SampleFields, descriptor: int) -> Kind:
    """Return what a member is, by the fields that the user gave, or else by its extension, or else by its bytes."""
    name = base_name(member.name).lower()
    extension = name.rpartition(".")[2] if "." in name else ""
    is_label = extension == LABEL_EXTENSION if fields.label_member is None else ends_in_field(name, fields.label_member)
    if fields.image_members and any(ends_in_field(name, field) for field in fields.image_members):
        return Kind.IMAGE
    if is_label:
        return Kind.LABEL
    if fields.image_members or extension in METADATA_EXTENSIONS:
        return Kind.METADATA
    if extension in IMAGE_EXTENSIONS:
        return Kind.IMAGE
    start = os.pread(descriptor, min(member.size_bytes, _MAGIC_BYTES), member.offset)
    return Kind.IMAGE if _starts_like_an_image(start) else Kind.OTHER


def ends_in_field(name: str, field: str) -> bool:
    """Return whether a member's name is a key, a dot and this field."""
    return name.endswith(field) and name[: -len(field)].endswith(".") and len(name) > len(field) + 1


def _starts_like_an_image(start: bytes) -> bool:
    if start.startswith(_STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        return True
    if start[4:8] == b"ftyp" and start[8:12] in _BRANDS:
        return True
    # The reserved fields of a BMP are zero, unlike the letters of a text that begins with BM.
    return start[:2] == b"BM" and start[6:10] == bytes(4)
