"""python -m alexnet_dist.show SHARDS: what a packed split holds, in a few lines and a sheet of pictures.

The pictures are samples as the net sees them in training: cropped, flipped, their colours shifted, by the very draws
of that seed and epoch. The mean that the net has subtracted is added again, and what leaves 0 to 255 is clipped.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image, ImageDraw, ImageFont

from alexnet_dist import rng
from alexnet_dist.config import Config
from alexnet_dist.data import augment
from alexnet_dist.data.manifest import SPLITS, Manifest
from alexnet_dist.data.reader import BadSample, Split
from alexnet_dist.data.remote import locate
from alexnet_dist.errors import UserError, run_command

Pictures = npt.NDArray[np.uint8]

COLUMNS = 8
TILE, GAP, MARGIN = 168, 14, 28  # pixels
TITLE_SIZE, SUBTITLE_SIZE, CAPTION_SIZE, NOTE_SIZE = 26, 15, 14, 11  # pixels
CAPTION_ROOM, TITLE_ROOM = 42, 84  # pixels, under a picture and above all of them
PAPER, INK, PALE = "#ffffff", "#222222", "#888888"
LISTED = 3  # rejected files that are named


@dataclass(frozen=True)
class Shown:
    """Samples as pictures, uint8 (n, crop, crop, 3), and for each its label's words and a note on what was done."""

    pictures: Pictures
    captions: Sequence[str]
    notes: Sequence[str]


def summary(split: Split) -> str:
    """Return what a split's manifest says, for one screen."""
    manifest = split.manifest
    size_bytes = sum(shard.size_bytes for shard in manifest.shards)
    counts = np.bincount(split.labels, minlength=len(manifest.classes))
    lines = {
        "shards": f"{len(manifest.shards):,}, {_bytes(size_bytes)}, {_bytes(size_bytes / split.images)} an image",
        "pixels": f"{manifest.size} x {manifest.size}",
        "classes": f"{counts.min():,} to {counts.max():,} images each, {np.median(counts):,.0f} in the middle",
        "colour": "no mean: of train only",
        "rejected": "no file",
        "options": ", ".join(f"{name} {value}" for name, value in asdict(manifest.options).items()),
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items())),
    }
    if manifest.colour is not None:
        spread = np.sqrt(np.diag(manifest.colour.covariance))
        parts = zip(("red", "green", "blue"), manifest.colour.mean, spread, strict=True)
        lines["colour"] = ", ".join(f"{name} {mean:.1f} ± {deviation:.1f}" for name, mean, deviation in parts)
    if manifest.rejected:
        lines["rejected"] = _rejected(manifest)
    if manifest.source is not None:
        lines["source"] = f"{manifest.source.files:,} files, sha256 {manifest.source.sha256[:12]}"
    lines["manifest"] = f"format {manifest.format}, sha256 {manifest.sha256[:12]}"
    head = f"{split.root}: {manifest.split}, {split.images:,} images of {len(manifest.classes):,} classes"
    return "\n".join([head, *(f"  {name:<10} {text}" for name, text in lines.items() if text)])


def _rejected(manifest: Manifest) -> str:
    reasons = Counter(one.reason for one in manifest.rejected).most_common()
    lines = [f"{len(manifest.rejected):,}: " + ", ".join(f"{count:,} {reason}" for reason, count in reasons[:LISTED])]
    lines += [f"{one.file}: {one.reason}" for one in manifest.rejected[:LISTED]]
    if len(manifest.rejected) > LISTED:
        lines.append(f"and {len(manifest.rejected) - LISTED:,} more, in the manifest")
    return f"\n{' ' * 13}".join(lines)


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def samples(split: Split, count: int, seed: int, epoch: int, crop: int) -> Shown:
    """Return `count` samples, drawn by (seed, epoch), as the net sees them: of train augmented, of others the centre.

    Raises UserError for a sample that cannot be read.
    """
    ids = rng.permutation(split.images, seed, "show", epoch)[:count]
    try:
        images = [simplejpeg.decode_jpeg(split.jpeg(sample), "RGB", strict=True) for sample in ids.tolist()]
    except (BadSample, ValueError) as problem:
        raise UserError(f"{split.root}: {problem}; pack it again") from None
    size = split.manifest.size
    top = left = np.full(len(ids), augment.centre_offset(size, crop))
    flip = shift = None
    if split.manifest.split == "train":
        noise = Config().data.colour_noise
        drawn = augment.train_draws(seed, epoch, ids, size, crop, split.components, noise)
        top, left = drawn.top, drawn.left
        flip, shift = torch.from_numpy(drawn.flip), torch.from_numpy(drawn.shift)
    crops = [image[y : y + crop, x : x + crop] for image, y, x in zip(images, top, left, strict=True)]
    # Without its mean, to which it is added back, a picture is the input of the net.
    mean = torch.zeros(3, crop, crop)
    inputs = augment.network_input(torch.from_numpy(np.stack(crops)), mean, torch.float32, flip, shift)
    pictures = inputs.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    classes = [split.manifest.classes[split.label(sample)] for sample in ids.tolist()]
    flipped = np.zeros(len(ids), bool) if flip is None else flip.numpy()
    return Shown(
        pictures,
        [(described.words or described.name) for described in classes],
        [f"sample {sample:,}{', flipped' if turned else ''}" for sample, turned in zip(ids, flipped, strict=True)],
    )


def sheet(shown: Shown, title: str, subtitle: str) -> Image.Image:
    """Return the pictures in rows of at most COLUMNS, captions under them, two lines of title above."""
    columns = min(COLUMNS, len(shown.pictures))
    rows = -(-len(shown.pictures) // columns)
    fonts = [ImageFont.load_default(size) for size in (TITLE_SIZE, SUBTITLE_SIZE, CAPTION_SIZE, NOTE_SIZE)]
    title_font, subtitle_font, caption_font, note_font = fonts
    texts = max(title_font.getlength(title), subtitle_font.getlength(subtitle))
    width = 2 * MARGIN + max(columns * (TILE + GAP) - GAP, int(texts) + 1)
    height = 2 * MARGIN + TITLE_ROOM + rows * (TILE + CAPTION_ROOM + GAP) - GAP
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN, MARGIN), title, INK, title_font)
    pen.text((MARGIN, MARGIN + TITLE_SIZE + 10), subtitle, PALE, subtitle_font)
    # Small pictures are shown pixel by pixel, large ones without jagged edges.
    small = shown.pictures.shape[1] < TILE
    how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    for number, picture in enumerate(shown.pictures):
        left = MARGIN + number % columns * (TILE + GAP)
        top = MARGIN + TITLE_ROOM + number // columns * (TILE + CAPTION_ROOM + GAP)
        page.paste(Image.fromarray(picture).resize((TILE, TILE), how), (left, top))
        pen.text((left, top + TILE + 5), shortened(shown.captions[number], caption_font), INK, caption_font)
        pen.text((left, top + TILE + 24), shortened(shown.notes[number], note_font), PALE, note_font)
    return page


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float = TILE) -> str:
    """Return the text, its end replaced by dots where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip(" ,") + "..."


def main(arguments: list[str]) -> None:
    """Print the summary and write the sheet; raises UserError."""
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.show", description=__doc__)
    parser.add_argument(
        "shards",
        metavar="SHARDS",
        help="folder or URL of a packed set; of a remote one, each picture's shard is fetched",
    )
    parser.add_argument("--split", choices=SPLITS, default="train", help="default: train")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), metavar="PNG", help="default: sheet.png")
    parser.add_argument("--count", type=int, default=32, metavar="N", help="pictures (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and of the draws (default: 0)")
    parser.add_argument("--epoch", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument("--crop", type=int, metavar="PIXELS", help="side (default: 7/8 of the packed size)")
    given = parser.parse_args(arguments)
    kept = Config().data
    root = locate(given.shards, kept.cache, kept.cache_bytes)
    split = Split.open(root, given.split)
    size = split.manifest.size
    crop = size * 7 // 8 if given.crop is None else given.crop
    for name, value, most in (("count", given.count, 1000), ("crop", crop, size), ("epoch", given.epoch, 1 << 31)):
        least = 0 if name == "epoch" else 1
        if not least <= value <= most:
            raise UserError(f"--{name}: {value}; expected {least:,} to {most:,}")
    print(summary(split), flush=True)  # the pictures of a remote set may take their time
    shown = samples(split, given.count, given.seed, given.epoch, crop)
    title = f"{Path(given.shards).resolve().name}: {given.split}, {split.images:,} images"
    done = "cropped, flipped, colours shifted" if given.split == "train" else "the centre"
    subtitle = f"as the net sees them: {crop} of {size} pixels, {done}; seed {given.seed}, epoch {given.epoch}"
    try:
        sheet(shown, title, subtitle).save(given.out, format="PNG")
    except OSError as problem:
        raise UserError(f"{given.out}: cannot be written: {problem.strerror}; choose another --out") from None
    print(f"{len(shown.pictures)} pictures in {given.out}")


if __name__ == "__main__":
    sys.exit(run_command(main))
