"""LAION's aesthetic predictor as the command offers it."""

from __future__ import annotations

from typing import Literal

from jaxsearch.core.types import Verifier
from jaxsearch.models.aesthetic import load_aesthetic_head
from jaxsearch.models.clip import clip_image_network, load_clip
from jaxsearch.verifiers import aesthetic as scores
from jaxsearch.verifiers.resize import Preprocessing
from jaxsearch.zoo.verifiers.clip_score import MEAN, STD
from jaxsearch.zoo.verifiers.prompted import checkpoint, preprocessing


def aesthetic(
    *,
    weights: str = "",
    head: str = "",
    path: Literal["8bit", "float"] = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> Verifier:
    """Rewards images that people would rate high: LAION's predictor, 1 to 10, mostly 4 to 7.

    Images are resized, bicubic, until their shorter side fits, and cut to a square, as Pillow does.

    Args:
        weights: CLIP ViT-L/14 in the form of transformers, `openai/clip-vit-large-patch14` (MIT):
            its folder, or its id on the Hugging Face hub.
        head: the file of the predictor, `sac+logos+ava1-l14-linearMSE.pth` (Apache-2.0).
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of CLIP's weights and computation.
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
            "aesthetic comes without its predictor: give sac+logos+ava1-l14-linearMSE.pth by "
            "--verifiers.aesthetic.head"
        )
    clip, predictor = load_clip(folder, dtype=dtype), load_aesthetic_head(head)
    features = clip.config.projection_dim
    if predictor.weight.shape != (features,):
        raise ValueError(
            f"{head} reads {predictor.weight.shape[0]} features, but the embeddings of {weights} "
            f"have {features}"
        )
    size = clip.config.vision.image_size
    return scores.aesthetic(
        "aesthetic",
        clip_image_network(clip.config, dtype=dtype, remat=remat),
        clip.images,
        predictor.weight,
        predictor.bias,
        preprocess=preprocessing(Preprocessing(size, size, "bicubic", MEAN, STD), path),
    )
