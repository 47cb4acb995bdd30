"""CLIP as a whole (Radford et al. 2021): images and texts as vectors that can be compared.

The files are folders of `transformers`: `openai/clip-vit-large-patch14` and `-base-patch32`,
`laion/CLIP-ViT-H-14-laion2B-s32B-b79K` and their like.

Reference: Radford, Kim, Hallacy et al., *Learning transferable visual models from natural language
supervision*, 2021, figure 3, https://arxiv.org/abs/2103.00020.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.clip_text import ClipText, ClipTextConfig, end_of, pooled
from jaxsearch.models.clip_vision import ClipVision, ClipVisionConfig
from jaxsearch.models.folders import (
    OF_ANY_MODEL,
    PLAIN_ENCODER,
    check_entries,
    number,
    part_of_config,
    read_config,
    read_weights,
    weights_path,
)
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import abstract_network, loaded_once, network_of
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.models.stored import Tensor
from jaxsearch.models.transformer import without_places


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What a CLIP is made of.

    Attributes:
        text: of the text encoder.
        vision: of the image encoder.
        projection_dim: features of the embeddings.
        end: the token that a text ends with, as `clip_text.pooled` takes it.

    Raises:
        ValueError: if a number is out of its range.
    """

    text: ClipTextConfig
    vision: ClipVisionConfig
    projection_dim: int
    end: int | None

    def __post_init__(self) -> None:
        check_count("projection_dim", self.projection_dim)
        if self.end is not None:
            check_count("eos_token_id", self.end, 0)


# A config leaves out what `transformers` gives its class anyway; for texts that is not what a
# `ClipTextConfig` has here, and for images it is. The whole's `projection_dim` counts, not theirs.
_TEXT = {
    **{field.name: field.default for field in dataclasses.fields(ClipTextConfig)},
    **{"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8},
    "eos_token_id": 49407,
}
_VISION = {field.name: field.default for field in dataclasses.fields(ClipVisionConfig)}
_PROJECTION = 512


def clip_config(entries: Mapping[str, Any]) -> ClipConfig:
    """The config that `transformers` writes beside a `CLIPModel`, as its `config.json` has it.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    check_entries(
        entries,
        needed=(),
        optional=(
            *("text_config", "text_config_dict", "vision_config", "vision_config_dict"),
            *("projection_dim", "logit_scale_init_value", *OF_ANY_MODEL),
        ),
        fixed={"architectures": (["CLIPModel"],), "model_type": ("clip",)},
    )
    text, vision = _part(entries, "text", _TEXT), _part(entries, "vision", _VISION)
    end = end_of({"eos_token_id": text.pop("eos_token_id")})
    return ClipConfig(
        text=ClipTextConfig(**text),
        vision=ClipVisionConfig(**vision),
        projection_dim=entries.get("projection_dim", _PROJECTION),
        end=end,
    )


def _part(entries: Mapping[str, Any], part: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an encoder."""
    stated = part_of_config(entries, f"{part}_config")
    complete = entries.get(f"{part}_config_dict")
    if complete is not None:
        # Older files say an encoder twice, and `transformers` takes the second as all there is to
        # say: what it leaves out has the default, whatever the first says.
        stated = {**stated, **defaults, **part_of_config(entries, f"{part}_config_dict")}
    check_entries(
        stated,
        needed=(),
        optional=(*defaults, *OF_ANY_MODEL, "eos_token_id", "projection_dim", "architectures"),
        fixed={**PLAIN_ENCODER, "model_type": (f"clip_{part}_model",)},
    )
    taken = {name: stated.get(name, default) for name, default in defaults.items()}
    epsilon = number(taken, "layer_norm_eps", 1e-5)
    return {**taken, "layer_norm_eps": epsilon}


# ----------------------------------------------------------------------------------------- network


class ClipImages(nnx.Module):
    """Images to embeddings; the arguments are those of `ClipVision`."""

    def __init__(
        self,
        config: ClipConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.vision_model = ClipVision(config.vision, dtype=dtype, remat=remat, rngs=rngs)
        self.visual_projection = Layers(dtype, rngs).linear(
            config.vision.hidden_size, config.projection_dim, use_bias=False
        )

    def __call__(self, images: Array) -> Array:
        """[n, projection_dim] float32, of any length, of images as `ClipVision` takes them."""
        return self.visual_projection(self.vision_model(images)).astype(jnp.float32)


class ClipTexts(nnx.Module):
    """Texts to embeddings; the arguments are those of `ClipText`."""

    def __init__(self, config: ClipConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> None:
        self.end = config.end
        self.text_model = ClipText(config.text, dtype=dtype, rngs=rngs)
        self.text_projection = Layers(dtype, rngs).linear(
            config.text.hidden_size, config.projection_dim, use_bias=False
        )

    def __call__(self, ids: Array) -> Array:
        """[n, projection_dim] float32, of any length.

        Args:
            ids: tokens [n, length] int32, as `ClipText` takes them.
        """
        states = self.text_model(ids)
        return self.text_projection(pooled(states, ids, self.end)).astype(jnp.float32)


class Clip(nnx.Module):
    """All weights of a CLIP; its two halves are used apart."""

    def __init__(self, config: ClipConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> None:
        images = ClipImages(config, dtype=dtype, rngs=rngs)
        texts = ClipTexts(config, dtype=dtype, rngs=rngs)
        self.vision_model, self.visual_projection = images.vision_model, images.visual_projection
        self.text_model, self.text_projection = texts.text_model, texts.text_projection
        self.logit_scale = nnx.Param(jnp.zeros((), jnp.float32))


# ------------------------------------------------------------------------------------------ in use


def clip_image_network(
    config: ClipConfig, *, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[PyTree, Array], Array]:
    """`(params, images [n,h,w,c]) -> [n, projection_dim]`, the same object each time.

    See `ClipImages`.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(ClipImages, config, dtype=compute_type(dtype), remat=bool(remat))


def clip_text_embedding_network(
    config: ClipConfig, *, dtype: Any = jnp.float32
) -> Callable[[PyTree, Array], Array]:
    """`(params, ids [n, length]) -> [n, projection_dim]`, the same object each time.

    See `ClipTexts`.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(ClipTexts, config, dtype=compute_type(dtype))


class LoadedClip(NamedTuple):
    """A CLIP as `load_clip` reads it."""

    config: ClipConfig
    images: PyTree  # weights of `clip_image_network`
    texts: PyTree  # of `clip_text_embedding_network`; on the host, where they wait for a text
    logit_scale: Array  # [] float32: cosines times its exponential are the logits it was trained on


@loaded_once
def load_clip(folder: str | os.PathLike[str], *, dtype: Any = jnp.float32) -> LoadedClip:
    """Reads a CLIP from a folder that `transformers` wrote.

    Args:
        folder: with `config.json` and `model.safetensors` or `pytorch_model.bin`, in one file or in
            several with their index.
        dtype: float32 or bfloat16: what the weights become, those of normalisations apart.

    Returns:
        What it is made of, and its weights on the default device: the same objects for as long as
        the files do not change.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    config = clip_config(read_config(folder))
    tensors = without_places(read_weights(folder, OF_TRANSFORMERS))
    source = weights_path(folder, OF_TRANSFORMERS)
    return clip_of_tensors(config, tensors, source=source, dtype=compute_type(dtype))


def clip_of_tensors(
    config: ClipConfig,
    tensors: Mapping[str, Tensor],
    *,
    source: str | os.PathLike[str],
    dtype: Any,
) -> LoadedClip:
    """A CLIP of tensors under the names of `transformers`.

    Args:
        config: what it is made of.
        tensors: all of its weights, in PyTorch's layout.
        source: where they are from, for messages.
        dtype: as of `load_clip`.

    Raises:
        ValueError: if a tensor is missing, unknown or of another shape. The message names it.
    """
    module = abstract_network(Clip, config, dtype=dtype)
    params = load_state_dict(module, tensors, source=source)
    scale = params.pop("logit_scale")
    images = {name: params.pop(name) for name in ("vision_model", "visual_projection")}
    return LoadedClip(config, images, jax.device_get(params), scale)
