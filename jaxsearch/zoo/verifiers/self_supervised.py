"""Self-supervised similarity as the command offers it."""

from __future__ import annotations

from typing import Literal

from jaxsearch.core.checks import check_range
from jaxsearch.verifiers import self_supervised as scores
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.zoo.verifiers.encoders import image_encoder
from jaxsearch.zoo.verifiers.prompted import Early, checkpoint, naming


@facts(
    Facts(
        (-1, 1),
        "path=float",
        ("estimate",),
        "facebook/dinov2-base, openai/clip-vit-large-patch14 and other DINOv2s, CLIPs, SigLIPs",
        "Apache-2.0; MIT",
    )
)
def self_supervised(
    *,
    weights: str = "",
    level: float = 0.4,
    path: Literal["8bit", "float"] = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> Early:
    """Rewards samples that were foreseen: likeness of the sample and of an early estimate of it.

    It is the cosine of the features of both. No label and no prompt is needed. An estimate is one
    more decode for each sample that is judged. A partial sample that has not come to the level is
    its own latest estimate, so that all score 1: search whole samples, or with `--value rollout`.

    Args:
        weights: a DINOv2, CLIP or SigLIP in the form of transformers, such as
            `facebook/dinov2-base` (Apache-2.0): its folder, or its id on the Hugging Face hub; or a
            file of Meta's, such as `dinov2_vitb14_pretrain.pth`.
        level: noise-to-signal ratio at which the sampler's clean estimate is taken, above 0; of the
            step that begins nearest to it.
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of weights and computation.
        remat: whether a gradient computes each block of the network again, which takes longer,
            instead of keeping what is inside it.

    Raises:
        ValueError: if there are no weights, or of something else; if a setting is unknown.

    Reference:
        Ma et al., Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps, 2025.
    """
    check_range("level", level, 0.0, open_low=True)
    folder = checkpoint("self_supervised", weights, "facebook/dinov2-base")
    with naming(folder):
        encoder = image_encoder(folder, path=path, dtype=dtype, remat=remat)
    verifier = scores.self_supervised(
        "self_supervised", encoder.embed, encoder.params, preprocess=encoder.preprocess
    )
    return Early(verifier, float(level))
