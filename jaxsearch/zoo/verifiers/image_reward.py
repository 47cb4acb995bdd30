"""ImageReward as the command offers it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp

from jaxsearch.core.types import Array
from jaxsearch.models import image_reward as models
from jaxsearch.models.bert_tokenizer import OF_BLIP, load_bert_tokenizer
from jaxsearch.verifiers import image_reward as scores
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.zoo.verifiers.encoders import clip_images
from jaxsearch.zoo.verifiers.prompted import Prompted, checkpoint, naming, tokenizer_folder

LENGTH = 35
"""Tokens of a prompt, its two ends counted (THUDM/ImageReward, `ImageReward.py`)."""


@facts(
    Facts(
        (-math.inf, math.inf),
        "path=float",
        ("prompt",),
        "ImageReward.pt (THUDM/ImageReward)",
        "Apache-2.0",
    )
)
def image_reward(
    *,
    weights: str = "",
    tokenizer: str = "",
    path: Literal["8bit", "float"] = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> Prompted:
    """Rewards images that people would rate high for their prompt: ImageReward, mostly -2.5 to 2.

    Images are resized, bicubic, until their shorter side fits, and cut to a square, as Pillow does.
    Of a prompt 35 tokens are read, its two ends counted.

    Args:
        weights: the file `ImageReward.pt` of `THUDM/ImageReward` (Apache-2.0).
        tokenizer: where BERT's vocabulary is: a folder with `tokenizer.json` or `vocab.txt`, or an
            id on the Hugging Face hub, `google-bert/bert-base-uncased`.
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of weights and computation.
        remat: whether a gradient computes each block of the network again, which takes longer,
            instead of keeping what is inside it.

    Raises:
        ValueError: if there are no weights or no vocabulary, or of something else; if a setting is
            unknown.

    Reference:
        Xu et al., ImageReward, 2023; as Ma et al. 2025 take it.
    """
    file = checkpoint("image_reward", weights, "ImageReward.pt")
    if not tokenizer:
        raise ValueError(
            "image_reward comes without a vocabulary: give the folder or id of one, such as "
            "google-bert/bert-base-uncased, by --verifiers.image_reward.tokenizer"
        )
    words = tokenizer_folder(tokenizer)
    config = models.PUBLISHED
    tokenise = load_bert_tokenizer(
        words, length=LENGTH, vocab_size=config.text.vocab_size, added=OF_BLIP
    )
    with naming(file):
        loaded = models.load_image_reward(file, config, dtype=dtype)
    verifier = scores.image_reward(
        "image_reward",
        models.image_reward_network(config, dtype=dtype, remat=remat),
        loaded.params,
        loaded.weight,
        loaded.bias,
        preprocess=clip_images(config.vision.image_size, path),
    )

    def context(prompts: Sequence[str]) -> dict[str, Array]:
        return {verifier.needs[0]: jnp.asarray(tokenise(prompts))}

    return Prompted(verifier, context)
