"""ImageReward (Xu et al. 2023): BLIP's encoders and a reward read from the text's first token.

The file is `ImageReward.pt` of `THUDM/ImageReward`, whose keys the attributes are named after.

Reference: Xu, Liu, Wu et al., *ImageReward: learning and evaluating human preferences for
text-to-image generation*, 2023, section 2.2, https://arxiv.org/abs/2304.05977.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.aesthetic import affine, linear_layers
from jaxsearch.models.blip import BlipImages, BlipTextConfig, BlipTexts, BlipVisionConfig
from jaxsearch.models.layers import compute_type
from jaxsearch.models.loading import abstract_network, loaded_once, network_of
from jaxsearch.models.pickles import read_state_dict
from jaxsearch.models.state_dict import load_state_dict

# Five linear layers with dropout between some of them and no activation.
_HEAD = {"mlp.layers": (0, 2, 4, 6, 7)}
# Of BLIP's contrastive training, and places that are counted here.
_UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")


@dataclasses.dataclass(frozen=True)
class ImageRewardConfig:
    """What the network is made of; the defaults are the published ones.

    Attributes:
        vision: of the image encoder.
        text: of the text encoder.
    """

    vision: BlipVisionConfig = BlipVisionConfig()
    text: BlipTextConfig = BlipTextConfig()


PUBLISHED = ImageRewardConfig()


class _Blip(nnx.Module):
    def __init__(self, config: ImageRewardConfig, dtype: Any, remat: bool, rngs: nnx.Rngs) -> None:
        options: dict[str, Any] = {"dtype": dtype, "remat": remat, "rngs": rngs}
        self.visual_encoder = BlipImages(config.vision, **options)
        self.text_encoder = BlipTexts(config.text, config.vision.hidden_size, **options)


class ImageReward(nnx.Module):
    """An image and its prompt to the features that the reward is read from.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations, softmax and what
            is passed from layer to layer are float32 in any case.
        remat: whether a gradient computes each layer again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: ImageRewardConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.blip = _Blip(config, dtype, remat, rngs)

    def __call__(self, images: Array, ids: Array) -> Array:
        """The last state of each text's first token, [n, hidden_size] float32.

        Args:
            images: as `BlipImages` takes them.
            ids: as `BlipTexts` takes them.
        """
        return self.blip.text_encoder(ids, self.blip.visual_encoder(images))[:, 0]


# ------------------------------------------------------------------------------------------ in use


def image_reward_network(
    config: ImageRewardConfig, *, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[PyTree, Array, Array], Array]:
    """`(params, images [n,h,w,c], ids [n, length]) -> [n, hidden_size]`, the same object each time.

    See `ImageReward`.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(ImageReward, config, dtype=compute_type(dtype), remat=bool(remat))


class LoadedImageReward(NamedTuple):
    """An ImageReward as `load_image_reward` reads it."""

    config: ImageRewardConfig
    params: PyTree  # weights of `image_reward_network`
    weight: Array  # [hidden_size] float32 of the head, which is affine
    bias: Array  # [] float32


@loaded_once
def load_image_reward(
    path: str | os.PathLike[str], config: ImageRewardConfig = PUBLISHED, *, dtype: Any = "float32"
) -> LoadedImageReward:
    """Reads `ImageReward.pt`.

    Its head's five layers have nothing between them, so they are one affine map, made in float64.

    Args:
        path: the file.
        config: what the network is made of.
        dtype: float32 or bfloat16: what the weights become, those of normalisations and the head
            apart.

    Returns:
        Its weights on the default device: the same objects for as long as the file does not change.

    Raises:
        ValueError: if the file cannot be read, or a tensor is missing, unknown or of another shape.
            The message names it.
    """
    tensors = {
        key: tensor for key, tensor in read_state_dict(path).items() if not key.startswith(_UNUSED)
    }
    head = {key: tensors.pop(key) for key in list(tensors) if key.startswith("mlp.")}
    module = abstract_network(ImageReward, config, dtype=compute_type(dtype))
    params = load_state_dict(module, tensors, source=path)
    layers = linear_layers(head, _HEAD, source=path, what="ImageReward by its head")
    weight, bias = affine(layers)
    if weight.shape[1] != config.text.hidden_size:
        raise ValueError(
            f"{path}: the head reads {weight.shape[1]} features, but the text encoder has "
            f"{config.text.hidden_size}"
        )
    # Whoever loads inside a traced function gets arrays all the same, fit to be kept in a cache.
    with jax.ensure_compile_time_eval():
        one = jnp.asarray(weight[0], jnp.float32), jnp.asarray(bias[0], jnp.float32)
        return LoadedImageReward(config, params, *one)
