"""The networks of the scenes: one makes them from captions, three look at them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.types import Array
from jaxsearch.models.attention import attention
from jaxsearch.models.dit import normalise, position_embedding
from jaxsearch.models.embeddings import sinusoidal
from jaxsearch.models.layers import Layers
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.transformer import JointAttention, TokenEmbeddings, Transformer
from jaxsearch.zoo.scenes.captions import LENGTH, vocabulary
from jaxsearch.zoo.scenes.world import CELL, GRID, NUM_CELLS, NUM_KINDS, check_images, tiles_of

_PIXELS = CELL * CELL * 3  # numbers of a cell, which is one token
_TIME_FEATURES = 64
_EPSILON = 1e-6
MOST = 4
"""The largest number of things of one kind that `Attributes` tells apart."""


@dataclasses.dataclass(frozen=True)
class _Shape:
    """A transformer's."""

    hidden_size: int
    num_hidden_layers: int

    num_attention_heads: int = 4
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = _EPSILON

    @property
    def intermediate_size(self) -> int:
        """Features inside a perceptron."""
        return 4 * self.hidden_size


class TextEncoder(nnx.Module):
    """Captions to a vector for each of their words, which sees all others."""

    def __init__(self, width: int, depth: int, rngs: nnx.Rngs) -> None:
        make = Layers(jnp.float32, rngs)
        self.embeddings = TokenEmbeddings(len(vocabulary()) + 1, LENGTH, width, make)
        self.transformer = Transformer(_Shape(width, depth), rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        """[n, 16] int32 -> [n, 16, width]."""
        return self.norm(self.transformer(self.embeddings(tokens)))


# ---------------------------------------------------------------------------------------- denoiser


class Size(NamedTuple):
    """How large the base model is."""

    width: int
    depth: int
    text_depth: int = 1
    heads: int = 4


SIZES = {"large": Size(width=64, depth=3), "small": Size(width=32, depth=2)}


class _CrossAttention(nnx.Module):
    """Cells ask the words of the caption."""

    def __init__(self, size: Size, rngs: nnx.Rngs) -> None:
        self.heads = size.heads
        self.query = nnx.Linear(size.width, size.width, rngs=rngs)
        self.key_value = nnx.Linear(size.width, 2 * size.width, rngs=rngs)
        zeros = nnx.initializers.zeros
        self.proj = nnx.Linear(size.width, size.width, kernel_init=zeros, rngs=rngs)

    def __call__(self, x: Array, words: Array) -> Array:
        num, tokens, width = x.shape
        query = self.query(x).reshape(num, tokens, self.heads, -1)
        both = self.key_value(words).reshape(num, words.shape[1], 2, self.heads, -1)
        key, value = jnp.unstack(both, axis=2)
        return self.proj(attention(query, key, value).reshape(num, tokens, width))


class _Block(nnx.Module):
    """DiT's block with attention to a text between its two layers.

    All blocks share the map from the condition to shift, scale and gate; each adds numbers of its
    own (Chen et al. 2023, *PixArt-alpha*, section 2.3, https://arxiv.org/abs/2310.00426).
    """

    def __init__(self, size: Size, rngs: nnx.Rngs) -> None:
        width = size.width
        self.table = nnx.Param(jnp.zeros((6, width)))
        self.attn = JointAttention(width, size.heads, Layers(jnp.float32, rngs))
        self.cross = _CrossAttention(size, rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Array, modulation: Array, words: Array) -> Array:
        """Cells [n, 16, w] with a modulation [n, 6, w] and words [n, 16, w]."""
        parts = jnp.split(modulation + self.table[...][None], 6, axis=1)
        shift, scale, gate = parts[:3]
        x = x + gate * self.attn(normalise(x, _EPSILON) * (1 + scale) + shift)
        x = x + self.cross(normalise(x, _EPSILON), words)
        shift, scale, gate = parts[3:]
        change = jax.nn.gelu(
            self.up(normalise(x, _EPSILON) * (1 + scale) + shift), approximate=True
        )
        return x + gate * self.down(change)


class DenoiserNetwork(nnx.Module):
    """A transformer whose tokens are the cells of a scene; it says what the clean picture is.

    A cell has far more numbers than a token: of those, a clean cell's can be told by so few and
    noise cannot (Li & He 2025, *Back to basics: let denoising generative models denoise*,
    https://arxiv.org/abs/2511.13720).
    """

    def __init__(self, size: Size, *, rngs: nnx.Rngs) -> None:
        width, zeros = size.width, nnx.initializers.zeros
        self.enter = nnx.Linear(_PIXELS, width, rngs=rngs)
        self.place = nnx.Param(jnp.asarray(position_embedding(GRID, width)))
        self.time = nnx.Linear(_TIME_FEATURES, width, rngs=rngs)
        self.caption = nnx.Linear(width, width, rngs=rngs)
        self.modulation = nnx.Linear(width, 6 * width, kernel_init=zeros, rngs=rngs)
        self.blocks = Stacked(lambda rngs: _Block(size, rngs), size.depth, rngs=rngs)
        self.last = nnx.Linear(width, 2 * width, kernel_init=zeros, rngs=rngs)
        self.leave = nnx.Linear(width, _PIXELS, kernel_init=zeros, rngs=rngs)

    def __call__(self, x: Array, t: Array, words: Array) -> Array:
        """Latents [n,48,48,3], times [n] in (0, 1], words [n,16,width] -> clean latents."""
        tiles = tiles_of(x)
        tokens = self.enter(tiles.reshape(len(x), NUM_CELLS, _PIXELS)) + self.place[...]
        features = sinusoidal(1000.0 * t, _TIME_FEATURES)
        condition = jax.nn.silu(self.time(features) + self.caption(jnp.mean(words, axis=1)))
        modulation = self.modulation(condition).reshape(len(x), 6, -1)
        tokens = self.blocks(tokens, modulation, words)
        shift, scale = jnp.split(self.last(condition)[:, None], 2, axis=-1)
        tiles = self.leave(normalise(tokens, _EPSILON) * (1 + scale) + shift)
        grid = tiles.reshape(len(x), GRID, GRID, CELL, CELL, 3)
        return jnp.swapaxes(grid, 2, 3).reshape(x.shape)


class BaseModel(nnx.Module):
    """Text encoder and denoiser, which learn together."""

    def __init__(self, size: Size, *, rngs: nnx.Rngs) -> None:
        self.text = TextEncoder(size.width, size.text_depth, rngs)
        self.denoiser = DenoiserNetwork(size, rngs=rngs)

    def words(self, tokens: Array) -> Array:
        """Captions [n, 16] int32 -> words [n, 16, width]."""
        return self.text(tokens)

    def __call__(self, x: Array, t: Array, words: Array) -> Array:
        """As of `DenoiserNetwork`."""
        return self.denoiser(x, t, words)


# --------------------------------------------------------------------------------------- verifiers


class _Tower(nnx.Module):
    """A transformer over cells, and the mean of what it says of them."""

    def __init__(self, width: int, depth: int, rngs: nnx.Rngs) -> None:
        self.enter = nnx.Linear(_PIXELS, width, rngs=rngs)
        self.place = nnx.Param(jnp.asarray(position_embedding(GRID, width)))
        self.transformer = Transformer(_Shape(width, depth), rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=_EPSILON, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """[n,48,48,3] in [0,1] -> [n, width]."""
        tiles = 2 * tiles_of(images) - 1
        tokens = self.enter(tiles.reshape(len(images), NUM_CELLS, _PIXELS)) + self.place[...]
        return jnp.mean(self.norm(self.transformer(tokens)), axis=1)


class Contrastive(nnx.Module):
    """Pictures and captions in one space, as CLIP has them (Radford et al. 2021)."""

    def __init__(
        self, *, width: int = 96, depth: int = 3, features: int = 64, rngs: nnx.Rngs
    ) -> None:
        self.tower = _Tower(width, depth, rngs)
        self.text = TextEncoder(width, 2, rngs)
        self.of_image = nnx.Linear(width, features, use_bias=False, rngs=rngs)
        self.of_text = nnx.Linear(width, features, use_bias=False, rngs=rngs)
        self.log_scale = nnx.Param(jnp.asarray(2.66))  # of logits: 1/0.07, there section 2.5

    def image(self, images: Array) -> Array:
        """[n,48,48,3] in [0,1] -> embeddings [n, features]."""
        return self.of_image(self.tower(images))

    def caption(self, tokens: Array) -> Array:
        """[n, 16] int32 -> embeddings [n, features]."""
        return self.of_text(jnp.mean(self.text(tokens), axis=1))

    def scale(self) -> Array:
        """By how much cosines are multiplied in the loss."""
        return jnp.exp(jnp.minimum(self.log_scale[...], jnp.log(100.0)))


class Attributes(nnx.Module):
    """How many things of each kind are to be seen: none to four."""

    def __init__(self, *, width: int = 96, depth: int = 2, rngs: nnx.Rngs) -> None:
        self.tower = _Tower(width, depth, rngs)
        self.logits = nnx.Linear(width, NUM_KINDS * (MOST + 1), rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """[n,48,48,3] in [0,1] -> logits [n, 30, 5]."""
        return self.logits(self.tower(images)).reshape(len(images), NUM_KINDS, MOST + 1)


class Taste(nnx.Module):
    """How pleasant a picture is, as `pleasantness` of scenes taught it."""

    def __init__(self, *, width: int = 64, hidden: int = 64, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, width // 2, (4, 4), strides=4, rngs=rngs)
        self.second = nnx.Conv(width // 2, width, (3, 3), strides=3, rngs=rngs)
        self.third = nnx.Linear(width * NUM_CELLS, hidden, rngs=rngs)
        self.score = nnx.Linear(hidden, 1, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """[n,48,48,3] in [0,1] -> [n]."""
        check_images(images)
        h = jax.nn.gelu(self.first(2 * images - 1), approximate=True)
        h = jax.nn.gelu(self.second(h), approximate=True).reshape(len(images), -1)
        return self.score(jax.nn.gelu(self.third(h), approximate=True))[:, 0]
