"""python -m alexnet_dist.show SHARDS: print a summary of a packed split and write a sheet of its samples as a PNG.

Training samples are shown as the net sees them: cropped, flipped and colour-shifted with the same random numbers as in
training, for a seed and an epoch. The mean image is not subtracted, and values are clipped to 0 to 255.
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
CAPTION_HEIGHT, TITLE_HEIGHT = 42, 84  # pixels, below each picture and above all of them
BACKGROUND, TEXT_COLOUR, NOTE_COLOUR = "#ffffff", "#222222", "#888888"
MAX_REJECTED = 3  # rejected files and reasons listed


@dataclass(frozen=True)
class SamplePictures:
    """Samples as pictures, uint8 (n, crop, crop, 3), with the class and a note (sample id, flipped or not) for each."""

    pictures: Pictures
    captions: Sequence[str]
    notes: Sequence[str]


def summary(split: Split) -> str:
    """Return a summary of a split's manifest that fits on one screen."""
    manifest = split.manifest
    size_bytes = sum(shard.size_bytes for shard in manifest.shards)
    image_bytes = _format_bytes(size_bytes / split.images)
    counts = np.bincount(split.labels, minlength=len(manifest.classes))
    lines = {
        "shards": f"{len(manifest.shards):,}, {_format_bytes(size_bytes)}, {image_bytes} per image",
        "pixels": f"{manifest.size} x {manifest.size}",
        "classes": f"{counts.min():,} to {counts.max():,} images each, median {np.median(counts):,.0f}",
        "colour": "no mean (only the train split has one)",
        "rejected": "no files",
        "options": ", ".join(f"{name} {value}" for name, value in asdict(manifest.options).items()),
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items())),
    }
    if manifest.colour is not None:
        spread = np.sqrt(np.diag(manifest.colour.covariance))
        parts = zip(("red", "green", "blue"), manifest.colour.mean, spread, strict=True)
        lines["colour"] = ", ".join(f"{name} {mean:.1f} ± {deviation:.1f}" for name, mean, deviation in parts)
    if manifest.rejected:
        lines["rejected"] = _format_rejected(manifest)
    if manifest.source is not None:
        lines["source"] = f"{manifest.source.files:,} files, sha256 {manifest.source.sha256[:12]}"
    lines["manifest"] = f"format {manifest.format}, sha256 {manifest.sha256[:12]}"
    head = f"{split.root}: {manifest.split}, {split.images:,} images of {len(manifest.classes):,} classes"
    return "\n".join([head, *(f"  {name:<10} {text}" for name, text in lines.items() if text)])


def _format_rejected(manifest: Manifest) -> str:
    reasons = Counter(rejected.reason for rejected in manifest.rejected).most_common()
    by_reason = ", ".join(f"{count:,} {reason}" for reason, count in reasons[:MAX_REJECTED])
    lines = [f"{len(manifest.rejected):,}: {by_reason}"]
    lines += [f"{rejected.file}: {rejected.reason}" for rejected in manifest.rejected[:MAX_REJECTED]]
    if len(manifest.rejected) > MAX_REJECTED:
        lines.append(f"and {len(manifest.rejected) - MAX_REJECTED:,} more, in the manifest")
    return f"\n{' ' * 13}".join(lines)


def _format_bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def sample_pictures(split: Split, count: int, seed: int, epoch: int, crop: int) -> SamplePictures:
    """Return `count` samples, chosen by (seed, epoch), as the net sees them.

    Samples of train are augmented, samples of other splits are centre-cropped.
    Raises UserError for a sample that cannot be read.
    """
    ids = rng.permutation(split.images, seed, "show", epoch)[:count]
    try:
        images = [simplejpeg.decode_jpeg(split.jpeg(sample), "RGB", strict=True) for sample in ids.tolist()]
    except (BadSample, ValueError) as error:
        raise UserError(f"{split.root}: {error}; pack it again") from None
    flip = shift = None
    if split.manifest.split == "train":
        noise = Config().data.colour_noise
        draws = augment.train_draws(seed, epoch, ids, split.manifest.size, crop, split.components, noise)
        crops = [image[y : y + crop, x : x + crop] for image, y, x in zip(images, draws.top, draws.left, strict=True)]
        flip, shift = torch.from_numpy(draws.flip), torch.from_numpy(draws.shift)
    else:
        crops = [augment.centre_crop(image, crop, channels_last=True) for image in images]
    # With a zero mean, the network input is the augmented picture itself.
    mean = torch.zeros(3, crop, crop)
    inputs = augment.network_input(torch.from_numpy(np.stack(crops)), mean, torch.float32, flip, shift)
    pictures = inputs.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    classes = [split.manifest.classes[split.label(sample)] for sample in ids.tolist()]
    flipped = np.zeros(len(ids), bool) if flip is None else flip.numpy()
    captions = [class_.words or class_.name for class_ in classes]
    notes = [f"sample {sample:,}{', flipped' if flip else ''}" for sample, flip in zip(ids, flipped, strict=True)]
    return SamplePictures(pictures, captions, notes)


def sheet(samples: SamplePictures, title: str, subtitle: str) -> Image.Image:
    """Return the pictures in rows of up to COLUMNS, with captions below them and a title and subtitle above."""
    columns = min(COLUMNS, len(samples.pictures))
    rows = -(-len(samples.pictures) // columns)
    fonts = [ImageFont.load_default(size) for size in (TITLE_SIZE, SUBTITLE_SIZE, CAPTION_SIZE, NOTE_SIZE)]
    title_font, subtitle_font, caption_font, note_font = fonts
    texts = max(title_font.getlength(title), subtitle_font.getlength(subtitle))
    width = 2 * MARGIN + max(columns * (TILE + GAP) - GAP, int(texts) + 1)
    height = 2 * MARGIN + TITLE_HEIGHT + rows * (TILE + CAPTION_HEIGHT + GAP) - GAP
    page = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN, MARGIN), title, TEXT_COLOUR, title_font)
    pen.text((MARGIN, MARGIN + TITLE_SIZE + 10), subtitle, NOTE_COLOUR, subtitle_font)
    # Nearest-neighbour keeps the pixels of small pictures visible; large ones are smoothed.
    small = samples.pictures.shape[1] < TILE
    resampling = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    for number, picture in enumerate(samples.pictures):
        left = MARGIN + number % columns * (TILE + GAP)
        top = MARGIN + TITLE_HEIGHT + number // columns * (TILE + CAPTION_HEIGHT + GAP)
        page.paste(Image.fromarray(picture).resize((TILE, TILE), resampling), (left, top))
        pen.text((left, top + TILE + 5), shortened(samples.captions[number], caption_font), TEXT_COLOUR, caption_font)
        pen.text((left, top + TILE + 24), shortened(samples.notes[number], note_font), NOTE_COLOUR, note_font)
    return page


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float = TILE) -> str:
    """Return the text, shortened to end in "..." if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip(" ,") + "..."


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m alexnet_dist.show", description=__doc__)
    parser.add_argument(
        "shards",
        metavar="SHARDS",
        help="folder or URL of a packed set; for a remote set, the shard of each picture is downloaded",
    )
    parser.add_argument("--split", choices=SPLITS, default="train", help="default: train")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"), metavar="PNG", help="default: sheet.png")
    parser.add_argument("--count", type=int, default=32, metavar="N", help="number of pictures (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="for choosing and augmenting samples (default: 0)")
    parser.add_argument("--epoch", type=int, default=0, help="for choosing and augmenting samples (default: 0)")
    parser.add_argument(
        "--crop", type=int, metavar="PIXELS", help="side of a picture (default: 7/8 of the packed size)"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Parse the arguments, print the summary and write the sheet.

    Raises UserError for bad arguments, an unreadable split or an unwritable output file.
    """
    options = _parse(arguments)
    defaults = Config().data
    root = locate(options.shards, defaults.cache, defaults.cache_bytes)
    split = Split.open(root, options.split)
    size = split.manifest.size
    crop = size * 7 // 8 if options.crop is None else options.crop
    for name, value, maximum in (
        ("count", options.count, 1000),
        ("crop", crop, size),
        ("epoch", options.epoch, 1 << 31),
    ):
        minimum = 0 if name == "epoch" else 1
        if not minimum <= value <= maximum:
            raise UserError(f"--{name}: {value}; expected {minimum:,} to {maximum:,}")
    print(summary(split), flush=True)  # before the pictures, since a remote set is slow to read
    samples = sample_pictures(split, options.count, options.seed, options.epoch, crop)
    title = f"{Path(options.shards).resolve().name}: {options.split}, {split.images:,} images"
    processing = "cropped, flipped, colours shifted" if options.split == "train" else "centre crop"
    subtitle = (
        f"as the net sees them: {crop} of {size} pixels, {processing}; seed {options.seed}, epoch {options.epoch}"
    )
    try:
        sheet(samples, title, subtitle).save(options.out, format="PNG")
    except OSError as error:
        raise UserError(f"{options.out}: cannot be written: {error.strerror}; choose another --out") from None
    print(f"{len(samples.pictures)} pictures in {options.out}")


if __name__ == "__main__":
    sys.exit(run_command(main))
