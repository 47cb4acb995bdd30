"""LAION's aesthetic predictor as the command offers it."""

from __future__ import annotations

import math
from typing import Literal

from jaxsearch.core.types import Verifier
from jaxsearch.models.aesthetic import load_aesthetic_head
from jaxsearch.verifiers import aesthetic as scores
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.zoo.verifiers.encoders import image_encoder
from jaxsearch.zoo.verifiers.prompted import checkpoint, naming


@facts(
    Facts(
        (-math.inf, math.inf),
        "path=float",
        (),
        "openai/clip-vit-large-patch14 and sac+logos+ava1-l14-linearMSE.pth; or, of version 2.5, "
        "google/siglip-so400m-patch14-384 and aesthetic_predictor_v2_5.pth",
        "MIT and Apache-2.0; of version 2.5 Apache-2.0 and AGPL-3.0",
    )
)
def aesthetic(
    *,
    weights: str = "",
    head: str = "",
    path: Literal["8bit", "float"] = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> Verifier:
    """Rewards images that people would rate high: LAION's predictor, 1 to 10, mostly 4 to 7.

    Images are resized, bicubic, as the encoder's publishers do: for CLIP until the shorter side
    fits, and cut to a square; for SigLIP stretched to one.

    Args:
        weights: CLIP ViT-L/14 in the form of transformers, `openai/clip-vit-large-patch14` (MIT):
            its folder, or its id on the Hugging Face hub. For version 2.5 of the predictor
            `google/siglip-so400m-patch14-384` (Apache-2.0).
        head: the file of the predictor, `sac+logos+ava1-l14-linearMSE.pth` (Apache-2.0), or
            `aesthetic_predictor_v2_5.pth` (AGPL-3.0).
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of the encoder's weights and computation.
        remat: whether a gradient computes each block of the network again, which takes longer,
            instead of keeping what is inside it.

    Raises:
        ValueError: if there are no weights, or of something else; if a setting is unknown.

    Reference:
        Schuhmann et al., LAION-5B, 2022, section 5.4; as Ma et al. 2025 take it.
    """
    folder = checkpoint("aesthetic", weights, "openai/clip-vit-large-patch14")
    if not head:
        raise ValueError(
            "aesthetic comes without its predictor: give sac+logos+ava1-l14-linearMSE.pth, or with "
            "SigLIP aesthetic_predictor_v2_5.pth, by --verifiers.aesthetic.head"
        )
    with naming(folder):
        encoder = image_encoder(folder, path=path, dtype=dtype, remat=remat)
    predictor = load_aesthetic_head(head)
    if predictor.encoder != encoder.family:
        raise ValueError(
            f"{head} rates what a {predictor.encoder} sees, but {weights} is a {encoder.family}: "
            "give the encoder that it was trained on"
        )
    if predictor.weight.shape != (encoder.features,):
        raise ValueError(
            f"{head} reads {predictor.weight.shape[0]} features, but the embeddings of {weights} "
            f"have {encoder.features}"
        )
    return scores.aesthetic(
        "aesthetic",
        encoder.embed,
        encoder.params,
        predictor.weight,
        predictor.bias,
        preprocess=encoder.preprocess,
    )
