"""The three small networks of the digits: one makes them, one guides a search, one judges it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.types import Array

SIDE = 8
NUM_CLASSES = 10
NO_LABEL = NUM_CLASSES
"""The label of a digit of which nothing is asked."""

SIGMA_DATA = 0.75
"""Standard deviation of the digits' pixels in [-1, 1]."""

_NUM_FREQUENCIES = 8


class Block(nnx.Module):
    """A residual two-layer perceptron, its normalised input scaled and shifted by the embedding."""

    def __init__(self, width: int, hidden: int, embedding: int, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.film = nnx.Linear(embedding, 2 * width, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, h: Array, embedding: Array) -> Array:
        """[n, width] and [n, embedding] -> [n, width]."""
        scale, shift = jnp.split(self.film(embedding), 2, axis=-1)
        return h + self.down(jax.nn.silu(self.up(self.norm(h) * (1 + scale) + shift)))


class DenoiserNetwork(nnx.Module):
    """`F` of EDM's preconditioning: a residual perceptron over the 64 pixels.

    At 8x8 pixels matrix products over all of them cost less on a CPU than convolutions do.
    """

    def __init__(
        self,
        *,
        width: int = 192,
        hidden: int = 384,
        depth: int = 3,
        embedding: int = 64,
        rngs: nnx.Rngs,
    ) -> None:
        # Of the size of the noise level's part: a fainter label is learnt late and heeded less.
        unit = nnx.initializers.normal(1.0)
        self.label = nnx.Embed(NUM_CLASSES + 1, embedding, embedding_init=unit, rngs=rngs)
        self.noise = nnx.Linear(2 * _NUM_FREQUENCIES, embedding, rngs=rngs)
        self.enter = nnx.Linear(SIDE * SIDE, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, hidden, embedding, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.leave = nnx.Linear(width, SIDE * SIDE, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, x: Array, c_noise: Array, label: Array) -> Array:
        """Latents [n,8,8,1], `log(sigma)/4` [n] and labels [n] int32 -> F [n,8,8,1]."""
        # sigma from 0.002 to 80 spans -1.6 to 1.1: the lowest frequency is below half a turn.
        turns = 0.25 * jnp.arange(1, _NUM_FREQUENCIES + 1, dtype=c_noise.dtype)
        angles = 2 * jnp.pi * turns[None] * c_noise[:, None]
        waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        embedding = jax.nn.silu(self.noise(waves) + self.label(label))
        h = self.enter(x.reshape((-1, SIDE * SIDE)))
        for block in self.blocks:
            h = block(h, embedding)
        return self.leave(self.norm(h)).reshape(x.shape)


def to_digits(images: Array) -> Array:
    """Images [n,h,w,c] in [0,1] of any enlargement -> grey [n,8,8,1] in [-1,1], by averaging.

    Raises:
        ValueError: if the sides are no multiples of 8.
    """
    num, height, width, channels = images.shape
    if height % SIDE or width % SIDE or height == 0 or width == 0:
        raise ValueError(
            f"the digits' classifiers take images whose sides are multiples of {SIDE}, "
            f"not {height}x{width}"
        )
    tiles = images.reshape((num, SIDE, height // SIDE, SIDE, width // SIDE, channels))
    return 2 * jnp.mean(tiles, axis=(2, 4, 5))[..., None] - 1


class Classifier(nnx.Module):
    """The guide: a perceptron over the 64 pixels."""

    def __init__(self, *, width: int = 128, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(SIDE * SIDE, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.logits = nnx.Linear(width, NUM_CLASSES, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """Images [n,h,w,c] in [0,1] -> logits [n,10]."""
        h = to_digits(images).reshape((-1, SIDE * SIDE))
        h = jax.nn.silu(self.second(jax.nn.silu(self.first(h))))
        return self.logits(h)


class Judge(nnx.Module):
    """The reporter, of another kind than the guide: a convolutional network."""

    def __init__(self, *, width: int = 24, features: int = 64, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.second = nnx.Conv(width, 2 * width, (3, 3), strides=2, rngs=rngs)
        self.third = nnx.Linear(2 * width * (SIDE // 2) ** 2, features, rngs=rngs)
        self.logits = nnx.Linear(features, NUM_CLASSES, rngs=rngs)

    def features(self, images: Array) -> Array:
        """Images [n,h,w,c] in [0,1] -> the last hidden layer [n,features]."""
        h = jax.nn.silu(self.first(to_digits(images)))
        h = jax.nn.silu(self.second(h))
        return jax.nn.silu(self.third(h.reshape((h.shape[0], -1))))

    def __call__(self, images: Array) -> Array:
        """Images [n,h,w,c] in [0,1] -> logits [n,10]."""
        return self.logits(self.features(images))
