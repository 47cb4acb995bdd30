"""CLIP's two encoders of texts, as the folders of Stable Diffusion XL and 3 have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxsearch.models.clip_text_features import (
    TextFeatures,
    clip_text_features_config,
    clip_text_features_network,
    load_clip_text_features,
)
from jaxsearch.models.clip_tokenizer import load_clip_tokenizer
from jaxsearch.zoo.pipeline import config_of
from jaxsearch.zoo.texts import encoder_of_folder

CLIPS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
"""Folders of the encoders, in the order in which their features stand, and of their tokenizers."""


def clip_texts(
    folder: Path, *, dtype: str = "float32"
) -> Callable[[Sequence[str]], list[TextFeatures]]:
    """`texts [P] -> what each encoder makes of them`, float32, of equally many tokens.

    Args:
        folder: of the pipeline.
        dtype: of the encoders' weights and computation.

    Raises:
        ValueError: if the files do not fit; when called, if the tokenizers give different lengths.
    """
    encoders = [_encoder(folder, dtype, *parts) for parts in CLIPS.items()]

    def encode(texts: Sequence[str]) -> list[TextFeatures]:
        found = [encoder(texts) for encoder in encoders]
        lengths = [part.tokens.shape[1] for part in found]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"{folder}: texts have {lengths[0]} tokens in tokenizer, but {lengths[1]} in "
                "tokenizer_2 (model_max_length)"
            )
        return found

    return encode


def _encoder(
    folder: Path, dtype: str, part: str, tokenizer: str
) -> Callable[[Sequence[str]], TextFeatures]:
    config = config_of(folder / part, clip_text_features_config)
    return encoder_of_folder(
        folder,
        part,
        clip_text_features_network(config, dtype=dtype),
        lambda: load_clip_text_features(folder / part, dtype=dtype)[1],
        load_clip_tokenizer(folder / tokenizer, length=config.text.max_position_embeddings),
        vocab_size=config.text.vocab_size,
    )
