"""Images as services are sent them: the levels and the file that a run would publish."""

from __future__ import annotations

import base64
import hashlib
import io
import json

import numpy as np
from PIL import Image


def data_url(image: np.ndarray) -> str:
    """A picture uint8 [h,w,c], grey or RGB, as the URL of a PNG that holds all of it."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def key_of(identity: str, image: np.ndarray, prompt: str) -> str:
    """What a grade is kept under: SHA-256 of grader, prompt and picture, hexadecimal."""
    about = json.dumps([identity, prompt, str(image.dtype), image.shape])
    return hashlib.sha256(about.encode() + b"\0" + np.ascontiguousarray(image).data).hexdigest()
