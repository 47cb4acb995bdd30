"""Pictures inside a page, as small as it can do with."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from jaxsearch.runs.errors import UserError
from jaxsearch.runs.images import png_of

_FEW = 64  # pictures that may be large
_SIDES = (256, 128)  # pixels of the longer side, of few pictures and of many


def side_for(pictures: int) -> int:
    """The longest side that each of so many pictures may have."""
    return _SIDES[0] if pictures <= _FEW else _SIDES[1]


def picture_of(png: bytes, side: int, where: Path) -> str:
    """A PNG as an address that holds it: as it is, or shrunk to a JPEG if it is too large.

    Args:
        png: the file.
        side: the most pixels of its longer side.
        where: it is from.

    Raises:
        UserError: if it is no picture.
    """
    try:
        with Image.open(io.BytesIO(png)) as picture:
            if max(picture.size) <= side:
                return _address("png", png)
            small = picture.convert("RGB")
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
    except OSError as error:
        raise UserError(f"cannot read the picture {where}: it is missing or damaged") from error
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return _address("jpeg", buffer.getvalue())


def picture_in(path: Path, side: int) -> str:
    """The same of a file.

    Raises:
        UserError: if it is missing or no picture.
    """
    try:
        png = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the picture {path}: it is missing or damaged") from error
    return picture_of(png, side, path)


def picture_from(pixels: np.ndarray, side: int) -> str:
    """The same of pixels uint8 [h, w, 1 or 3]."""
    return picture_of(png_of(pixels), side, Path("made again"))


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
