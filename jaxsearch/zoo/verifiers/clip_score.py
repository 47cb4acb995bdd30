"""CLIPScore as the command offers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxsearch.core.types import Array
from jaxsearch.models.clip import clip_image_network, load_clip
from jaxsearch.verifiers import clip_score as scores
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.zoo.verifiers.encoders import clip_images, clip_texts
from jaxsearch.zoo.verifiers.prompted import Prompted, checkpoint, naming


@facts(
    Facts(
        (-1, 2.5),
        "path=float",
        ("prompt",),
        "openai/clip-vit-large-patch14 and other CLIPs",
        "MIT",
    )
)
def clip_score(
    *,
    weights: str = "",
    form: Literal["cosine", "clip_score"] = "cosine",
    path: Literal["8bit", "float"] = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> Prompted:
    """Rewards images that fit their prompt: the cosine of CLIP's embeddings of both.

    Images are resized, bicubic, until their shorter side fits, and cut to a square, as Pillow does.

    Args:
        weights: a CLIP in the form of transformers, such as `openai/clip-vit-large-patch14` (MIT):
            its folder, or its id on the Hugging Face hub.
        form: `"cosine"`, -1 to 1 (Ramesh & Mardani 2025); or `"clip_score"`, 2.5 times what of it
            is positive, of prompts that begin "A photo depicts" (Hessel et al. 2021; Ma et al.
            2025).
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of weights and computation.
        remat: whether a gradient computes each block of the network again, which takes longer,
            instead of keeping what is inside it.

    Raises:
        ValueError: if there are no weights, or of something else; if a setting is unknown.
    """
    folder = checkpoint("clip_score", weights, "openai/clip-vit-large-patch14")
    with naming(folder):
        clip = load_clip(folder, dtype=dtype)
    verifier = scores.clip_score(
        "clip_score",
        clip_image_network(clip.config, dtype=dtype, remat=remat),
        clip.images,
        preprocess=clip_images(clip.config.vision.image_size, path),
        form=form,
    )
    encode = clip_texts(clip, folder, dtype=dtype)

    def context(prompts: Sequence[str]) -> dict[str, Array]:
        return {verifier.needs[0]: encode([scores.clip_text(text, form) for text in prompts])}

    return Prompted(verifier, context)
