"""Pictures: single ones as PNG, and a sheet of plain samples beside the found ones."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxsearch.runs.errors import UserError
from jaxsearch.runs.files import write_atomic

_MOST = 64  # prompts on a sheet
_SIDE = 96  # pixels of the smaller pictures, enlarged by a whole number
_PAPER, _INK, _FAINT = "#ffffff", "#1a1a1a", "#6b6b6b"
_LEGEND = "above: the prompt. left: plain sample, right: found by the search. below: their scores"
_BETTER, _WORSE = "#1a7f37", "#b3261e"


def image_name(kind: str, index: int) -> str:
    """The file name of the `index`-th picture of a kind ("plain" or "found")."""
    return f"{kind}_{index:04d}.png"


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def write_png(path: Path, picture: Image.Image | np.ndarray) -> None:
    """Writes pixels uint8 [h, w, 1 or 3], or a picture, as PNG."""
    write_atomic(path, png_of(picture))


def png_of(picture: Image.Image | np.ndarray) -> bytes:
    """Pixels uint8 [h, w, 1 or 3], or a picture, as PNG."""
    picture = _picture(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def read_png(path: Path) -> np.ndarray:
    """The pixels uint8 [h, w, c] of a file.

    Raises:
        UserError: if it is no picture.
    """
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture)
    except OSError as error:
        raise UserError(f"cannot read the picture {path}: it is missing or damaged") from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def read_png_bytes(path: Path) -> bytes:
    """A picture's file as it is.

    Raises:
        UserError: if it is no PNG, or a damaged one.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            picture.verify()
    except (OSError, SyntaxError) as error:  # the latter of a wrong checksum
        raise UserError(f"cannot read the picture {path}: it is missing or damaged") from error
    return content


def contact_sheet(
    title: str,
    prompts: Sequence[str],
    plain: np.ndarray,
    found: np.ndarray,
    plain_scores: np.ndarray,
    found_scores: np.ndarray,
) -> Image.Image:
    """Plain samples (left) beside found ones (right), with their scores below.

    Args:
        title: one line above all.
        prompts: [P].
        plain: uint8 [P, h, w, c].
        found: uint8 [P, h, w, c].
        plain_scores: [P].
        found_scores: [P].
    """
    shown = min(len(prompts), _MOST)
    if shown < len(prompts):
        title += f" (the first {shown} of {len(prompts)})"
    height, width = plain.shape[1:3]
    scale = max(1, math.ceil(_SIDE / max(height, width)))
    pair = 2 * width * scale + 4
    cell_width, cell_height = pair + 24, height * scale + 58
    columns = max(1, min(shown, math.ceil(math.sqrt(shown * cell_height / cell_width))))
    rows = math.ceil(shown / columns)
    title_font, font = (ImageFont.load_default(size) for size in (18, 13))
    total = max(
        columns * cell_width + 24,
        int(max(title_font.getlength(title), font.getlength(_LEGEND))) + 48,
    )
    sheet = Image.new("RGB", (total, rows * cell_height + 72), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((24, 16), title, _INK, title_font)
    draw.text((24, 40), _LEGEND, _FAINT, font)
    written = _written(np.stack([plain_scores[:shown], found_scores[:shown]]))
    for index in range(shown):
        left = 24 + (index % columns) * cell_width
        top = 66 + (index // columns) * cell_height
        draw.text((left, top), _fitted(prompts[index], font, pair), _INK, font)
        for place, images in enumerate((plain, found)):
            size = (width * scale, height * scale)
            picture = _picture(images[index]).convert("RGB").resize(size, Image.Resampling.NEAREST)
            sheet.paste(picture, (left + place * (width * scale + 4), top + 18))
        below = top + 20 + height * scale
        colour = _judgement(plain_scores[index], found_scores[index])
        draw.text((left, below), written[0][index], _FAINT, font)
        draw.text((left + width * scale + 4, below), written[1][index], colour, font)
    return sheet


def _judgement(plain: float, found: float) -> str:
    return _BETTER if found > plain else _WORSE if found < plain else _FAINT


def decimals_for(scores: np.ndarray) -> int:
    """As many decimals as give the largest of some numbers three digits."""
    sizes = np.abs(scores[np.isfinite(scores) & (scores != 0)])
    digits = 2 - math.floor(math.log10(sizes.max())) if sizes.size else 2
    return min(max(digits, 0), 9)


def _written(scores: np.ndarray) -> list[list[str]]:
    decimals = decimals_for(scores)
    return [[f"{score:.{decimals}f}" for score in row] for row in scores]


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    text = " ".join(text.splitlines())  # a prompt of a table may have several
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
