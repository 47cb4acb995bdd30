"""CLIP's text encoder as Stable Diffusion XL reads it: one layer before its last, and as a whole.

The features of tokens are those that the last layer but one gives, not normalised. An encoder with
a projection gives besides the text as a whole: its last state at its end, normalised and projected.

Reference: Podell et al., *SDXL: improving latent diffusion models for high-resolution image
synthesis*, 2023, section 2.1, https://arxiv.org/abs/2307.01952.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.clip_text import (
    ClipText,
    ClipTextConfig,
    clip_text_config,
    end_of,
    pooled,
    present_name,
)
from jaxsearch.models.folders import read_config, read_weights, rename, weights_path
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import abstract_network, network_of
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.models.transformer import without_places

ARCHITECTURES = ("CLIPTextModel", "CLIPTextModelWithProjection")
"""The classes of `transformers` without a projection and with one."""


class TextFeatures(NamedTuple):
    """What an encoder makes of texts.

    Attributes:
        tokens: [n, length, hidden_size] float32.
        whole: [n, projection_dim] float32, or None of an encoder without a projection.
    """

    tokens: Array
    whole: Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTextFeaturesConfig:
    """What such an encoder is made of.

    Attributes:
        text: of the encoder.
        projection_dim: features of a text as a whole; None: it has no projection.
        end: the token that a text ends with, as `clip_text.pooled` takes it.

    Raises:
        ValueError: if a number is out of its range.
    """

    text: ClipTextConfig
    projection_dim: int | None
    end: int | None

    def __post_init__(self) -> None:
        if self.projection_dim is not None:
            check_count("projection_dim", self.projection_dim)
        if self.end is not None:
            check_count("eos_token_id", self.end, 0)


_PROJECTION = 512  # what `transformers` has where a config says nothing


def clip_text_features_config(entries: Mapping[str, Any]) -> ClipTextFeaturesConfig:
    """The config that `transformers` writes beside one of `ARCHITECTURES`.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    projected = entries.get("architectures") == [ARCHITECTURES[1]]
    return ClipTextFeaturesConfig(
        text=clip_text_config(entries, architecture=ARCHITECTURES[projected]),
        projection_dim=entries.get("projection_dim", _PROJECTION) if projected else None,
        end=end_of(entries) if projected else None,
    )


class ClipTextFeatures(ClipText):
    """Tokens to what is made of them; the arguments are those of `ClipText`."""

    def __init__(
        self, config: ClipTextFeaturesConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config.text, dtype=dtype, rngs=rngs)
        self.end = config.end
        self.projects = config.projection_dim is not None
        if config.projection_dim is not None:
            self.text_projection = Layers(dtype, rngs).linear(
                config.text.hidden_size, config.projection_dim, use_bias=False
            )

    def __call__(self, ids: Array) -> TextFeatures:  # type: ignore[override]
        """What each text is made to.

        Args:
            ids: tokens [n, length] int32, as `ClipText` takes them.
        """
        x = self.embeddings(ids)
        last, states = self.encoder.layers.watched(x, lambda x: x)
        tokens = jnp.concatenate([x[None], states])[-2].astype(jnp.float32)
        if not self.projects:
            return TextFeatures(tokens, None)
        whole = pooled(self.final_layer_norm(last), ids, self.end)
        return TextFeatures(tokens, self.text_projection(whole).astype(jnp.float32))


def clip_text_features_network(
    config: ClipTextFeaturesConfig, *, dtype: Any = jnp.float32
) -> Callable[[PyTree, Array], TextFeatures]:
    """`(params, ids [n, length]) -> TextFeatures`, the same object each time.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(ClipTextFeatures, config, dtype=compute_type(dtype))


def load_clip_text_features(
    folder: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[ClipTextFeaturesConfig, PyTree]:
    """Reads an encoder from a folder that `transformers` wrote: `text_encoder_2/` of a pipeline.

    Args:
        folder: with `config.json` and `model.safetensors`.
        dtype: float32 or bfloat16: what the weights become, those of normalisations apart.

    Returns:
        What it is made of, and its weights on the default device.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    config = clip_text_features_config(read_config(folder))
    path = weights_path(folder, OF_TRANSFORMERS)
    tensors = rename(read_weights(folder, OF_TRANSFORMERS), present_name)
    module = abstract_network(ClipTextFeatures, config, dtype=compute_type(dtype))
    return config, load_state_dict(module, without_places(tensors), source=path)
