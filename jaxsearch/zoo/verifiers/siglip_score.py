"""SigLIP's score as the command offers it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from jaxsearch.core.types import Array
from jaxsearch.models.siglip import load_siglip, siglip_image_network, siglip_text_network
from jaxsearch.models.siglip_tokenizer import load_siglip_tokenizer
from jaxsearch.verifiers import siglip_score as scores
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.verifiers.resize import Preprocessing
from jaxsearch.zoo.texts import text_encoder
from jaxsearch.zoo.verifiers.prompted import Prompted, checkpoint, naming, preprocessing


@facts(
    Facts(
        (-math.inf, math.inf),
        "path=float",
        ("prompt",),
        "google/siglip-so400m-patch14-384 and other SigLIPs",
        "Apache-2.0",
    )
)
def siglip_score(
    *,
    weights: str = "",
    score: Literal["cosine", "logit", "probability"] = "probability",
    filter: Literal["bicubic", "bilinear"] = "bicubic",
    path: Literal["8bit", "float"] = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> Prompted:
    """Rewards images that fit their prompt: how sure SigLIP is that they belong together.

    Images are stretched to a square, as Pillow does.

    Args:
        weights: a SigLIP in the form of transformers, such as `google/siglip-so400m-patch14-384`
            (Apache-2.0): its folder, or its id on the Hugging Face hub.
        score: the `"probability"`, 0 to 1; its `"logit"`, which still differs where the probability
            is 0 or 1 in float32; or the `"cosine"`, -1 to 1.
        filter: of resizing: `"bicubic"` for SigLIP, `"bilinear"` for SigLIP 2.
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of weights and computation.
        remat: whether a gradient computes each block of the network again, which takes longer,
            instead of keeping what is inside it.

    Raises:
        ValueError: if there are no weights, or of something else; if a setting is unknown.
    """
    folder = checkpoint("siglip_score", weights, "google/siglip-so400m-patch14-384")
    with naming(folder):
        siglip = load_siglip(folder, dtype=dtype)
    images, texts = siglip.config.vision, siglip.config.text
    verifier = scores.siglip_score(
        "siglip_score",
        siglip_image_network(images, dtype=dtype, remat=remat),
        siglip.images,
        siglip.logit_scale,
        siglip.logit_bias,
        preprocess=preprocessing(Preprocessing(images.image_size, None, filter), path),
        score=score,
    )
    encode = text_encoder(
        siglip_text_network(texts, dtype=dtype),
        siglip.texts,
        load_siglip_tokenizer(folder, length=texts.max_position_embeddings),
        vocab_size=texts.vocab_size,
        source=folder,
    )

    def context(prompts: Sequence[str]) -> dict[str, Array]:
        return {verifier.needs[0]: encode(prompts)}

    return Prompted(verifier, context)
