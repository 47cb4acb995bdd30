"""T5's encoder of texts, as the folders of PixArt-Sigma, Stable Diffusion 3 and FLUX.1 have it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp

from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.pixart import MaskedText
from jaxsearch.models.t5_encoder import (
    T5EncoderConfig,
    load_t5_encoder,
    t5_encoder_config,
    t5_encoder_network,
)
from jaxsearch.models.t5_tokenizer import load_t5_tokenizer
from jaxsearch.zoo.pipeline import config_of
from jaxsearch.zoo.texts import encoder_of_folder


def t5_texts(
    folder: Path,
    part: str,
    tokenizer: str,
    *,
    dtype: str = "float32",
    length: int,
    masks: bool = False,
) -> Callable[[Sequence[str]], MaskedText]:
    """`texts [P] -> MaskedText` of `length` tokens, whose features are float32.

    Args:
        folder: of the pipeline.
        part: of it, where the encoder is.
        tokenizer: the part where its tokenizer is.
        dtype: of the encoder's weights and computation.
        length: the most tokens of a text; the rest of it is not read.
        masks: whether the encoder itself does not see padding. Most networks were trained with one
            that does.

    Raises:
        ValueError: if the files do not fit.
    """
    config = config_of(folder / part, t5_encoder_config)
    return encoder_of_folder(
        folder,
        part,
        _network(config, dtype, masks),
        lambda: load_t5_encoder(folder / part, dtype=dtype)[1],
        load_t5_tokenizer(folder / tokenizer, length=length),
        vocab_size=config.vocab_size,
    )


@functools.cache
def _network(
    config: T5EncoderConfig, dtype: str, masks: bool
) -> Callable[[PyTree, Array, Array], MaskedText]:
    network = t5_encoder_network(config, dtype=dtype)

    def apply(params: PyTree, ids: Array, seen: Array) -> MaskedText:
        return MaskedText(network(params, ids, seen if masks else jnp.ones_like(seen)), seen)

    return apply
