"""CLIP's text encoder as FLUX.1 reads it: a text as a whole, and no token of it.

That is the encoder's last state at the text's end, normalised and not projected.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.clip_text import (
    ClipText,
    ClipTextConfig,
    clip_text_config,
    end_of,
    load_clip_text,
    pooled,
)
from jaxsearch.models.folders import read_config
from jaxsearch.models.layers import compute_type
from jaxsearch.models.loading import network_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTextWholeConfig:
    """What such an encoder is made of.

    Attributes:
        text: of the encoder.
        end: the token that a text ends with, as `clip_text.pooled` takes it.

    Raises:
        ValueError: if a number is out of its range.
    """

    text: ClipTextConfig
    end: int | None

    def __post_init__(self) -> None:
        if self.end is not None:
            check_count("eos_token_id", self.end, 0)


def clip_text_whole_config(entries: Mapping[str, Any]) -> ClipTextWholeConfig:
    """The config that `transformers` writes beside a `CLIPTextModel`.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    return ClipTextWholeConfig(text=clip_text_config(entries), end=end_of(entries))


class ClipTextWhole(ClipText):
    """Tokens to what the text is as a whole; the arguments are those of `ClipText`."""

    def __init__(
        self, config: ClipTextWholeConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config.text, dtype=dtype, rngs=rngs)
        self.end = config.end

    def __call__(self, ids: Array) -> Array:
        """[n, hidden_size] float32.

        Args:
            ids: tokens [n, length] int32, as `ClipText` takes them.
        """
        return pooled(super().__call__(ids), ids, self.end)


def clip_text_whole_network(
    config: ClipTextWholeConfig, *, dtype: Any = jnp.float32
) -> Callable[[PyTree, Array], Array]:
    """`(params, ids [n, length]) -> [n, hidden_size]`, the same object each time.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(ClipTextWhole, config, dtype=compute_type(dtype))


def load_clip_text_whole(
    folder: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[ClipTextWholeConfig, PyTree]:
    """Reads an encoder from a folder that `transformers` wrote: `text_encoder/` of a pipeline.

    Its weights are those of a `ClipText`; see `load_clip_text`.
    """
    return clip_text_whole_config(read_config(folder)), load_clip_text(folder, dtype=dtype)[1]
