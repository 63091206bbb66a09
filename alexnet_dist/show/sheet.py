"""The sheet: pictures of samples in rows, with captions, a title and a subtitle."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from alexnet_dist.show.samples import SamplePictures

COLUMNS = 8
TILE, GAP, MARGIN = 168, 14, 28  # pixels
TITLE_SIZE, SUBTITLE_SIZE, CAPTION_SIZE, NOTE_SIZE = 26, 15, 14, 11  # pixels
CAPTION_HEIGHT, TITLE_HEIGHT = 42, 84  # pixels, below each picture and above all of them
BACKGROUND, TEXT_COLOUR, NOTE_COLOUR = "#ffffff", "#222222", "#888888"


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
