"""PickScore as the command offers it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from jaxsearch.core.types import Array
from jaxsearch.models.clip import clip_image_network, load_clip
from jaxsearch.verifiers import pick_score as scores
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.zoo.verifiers.encoders import clip_images, clip_texts
from jaxsearch.zoo.verifiers.prompted import Prompted, checkpoint, naming, tokenizer_folder


@facts(
    Facts(
        (-math.inf, math.inf),
        "path=float",
        ("prompt",),
        "yuvalkirstain/PickScore_v1",
        "MIT",
    )
)
def pick_score(
    *,
    weights: str = "",
    tokenizer: str = "",
    path: Literal["8bit", "float"] = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> Prompted:
    """Rewards images that people would pick for their prompt: PickScore, mostly 17 to 24.

    Images are resized, bicubic, until their shorter side fits, and cut to a square, as Pillow does.

    Args:
        weights: `yuvalkirstain/PickScore_v1` (MIT), a CLIP ViT-H/14 in the form of transformers:
            its folder, or its id on the Hugging Face hub.
        tokenizer: where its vocabulary is, if not beside the weights:
            `laion/CLIP-ViT-H-14-laion2B-s32B-b79K`, which its authors read prompts with, its
            folder or any other with CLIP's vocabulary.
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of weights and computation.
        remat: whether a gradient computes each block of the network again, which takes longer,
            instead of keeping what is inside it.

    Raises:
        ValueError: if there are no weights, or of something else; if a setting is unknown.

    Reference:
        Kirstain et al., Pick-a-Pic, 2023.
    """
    folder = checkpoint("pick_score", weights, "yuvalkirstain/PickScore_v1")
    with naming(folder):
        clip = load_clip(folder, dtype=dtype)
    verifier = scores.pick_score(
        "pick_score",
        clip_image_network(clip.config, dtype=dtype, remat=remat),
        clip.images,
        clip.logit_scale,
        preprocess=clip_images(clip.config.vision.image_size, path),
    )
    words = tokenizer_folder(tokenizer) if tokenizer else folder
    encode = clip_texts(clip, words, dtype=dtype)

    def context(prompts: Sequence[str]) -> dict[str, Array]:
        return {verifier.needs[0]: encode(prompts)}

    return Prompted(verifier, context)
