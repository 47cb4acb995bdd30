"""Classification by the names of classes as the command offers it."""

from __future__ import annotations

from typing import Literal

from jaxsearch.core.types import Verifier
from jaxsearch.models.clip import clip_image_network, load_clip
from jaxsearch.models.configs import read_text
from jaxsearch.verifiers import zero_shot as scores
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.zoo.verifiers.encoders import clip_images, clip_texts
from jaxsearch.zoo.verifiers.prompted import checkpoint, naming


@facts(
    Facts(
        (-1, 1),
        "path=float",
        ("label",),
        "openai/clip-vit-large-patch14 and other CLIPs",
        "MIT",
    )
)
def zero_shot(
    *,
    weights: str = "",
    classes: str = "",
    templates: str = "",
    score: scores.Score = "cosine",
    path: Literal["8bit", "float"] = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> Verifier:
    """Rewards images of the class that was asked for: CLIP's embedding of its name.

    Images are resized, bicubic, until their shorter side fits, and cut to a square, as Pillow does.

    Args:
        weights: a CLIP in the form of transformers, such as `openai/clip-vit-large-patch14` (MIT):
            its folder, or its id on the Hugging Face hub.
        classes: a file of the classes' names, one a line, in the order of their numbers.
        templates: a file of what a class is called in, one a line, each with one `{}` where the
            name goes; without it "a photo of a {}.".
        score: the `"cosine"` with the class, -1 to 1, as Ma et al. 2025 take it; or its
            `"probability"` among all classes.
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of weights and computation.
        remat: whether a gradient computes each block of the network again, which takes longer,
            instead of keeping what is inside it.

    Raises:
        ValueError: if there are no weights or no classes, or of something else; if a setting is
            unknown.

    Reference:
        Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021.
    """
    folder = checkpoint("zero_shot", weights, "openai/clip-vit-large-patch14")
    if not classes:
        raise ValueError(
            "zero_shot comes without classes: give a file of their names, one a line, by "
            "--verifiers.zero_shot.classes"
        )
    with naming(folder):
        clip = load_clip(folder, dtype=dtype)
    encode = clip_texts(clip, folder, dtype=dtype)
    named = scores.class_embeddings(
        encode, _lines(classes), templates=_lines(templates) if templates else scores.TEMPLATES
    )
    return scores.zero_shot(
        "zero_shot",
        clip_image_network(clip.config, dtype=dtype, remat=remat),
        clip.images,
        named,
        preprocess=clip_images(clip.config.vision.image_size, path),
        score=score,
        logit_scale=clip.logit_scale,
    )


def _lines(path: str) -> list[str]:
    """The lines of a file.

    Raises:
        ValueError: if it cannot be read, has none, or one is blank or stands there twice.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    if not lines:
        raise ValueError(f"{path} is empty: write one thing on each line")
    for number, line in enumerate(lines):
        if not line:
            raise ValueError(f"{path}: line {number + 1} is blank: write one thing on each line")
        if line in lines[:number]:
            raise ValueError(f"{path}: line {number + 1} says {line!r} again: write it once")
    return lines
