"""Trains the networks of the scenes: base models of two sizes and three verifiers.

Command: `python -m experiments.train_scenes` (results in `runs/train_scenes`; with `--install true`
the weights are also copied into the package; `--only "[small]"` trains one of them). A run that was
killed goes on where it was when the command is given again, to the same weights bit for bit on the
same machine. Minutes for each on 2 CPU cores; the model card has times and figures.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jsonargparse import auto_cli

from experiments.training import Loss, Optimisation, claim, train
from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.loading import parameters, save_safetensors
from jaxsearch.zoo.scenes.captions import PADDING
from jaxsearch.zoo.scenes.data import Pool, batch, pleasantness, pool
from jaxsearch.zoo.scenes.load import NAMES, WEIGHTS, build, network
from jaxsearch.zoo.scenes.network import MOST
from jaxsearch.zoo.scenes.world import NUM_KINDS


@dataclasses.dataclass(frozen=True)
class Training:
    """Everything that the weights depend on."""

    large: Optimisation = Optimisation(steps=12_000, batch=64, learning_rate=2e-3, weight_decay=0.0)
    small: Optimisation = Optimisation(steps=12_000, batch=64, learning_rate=2e-3, weight_decay=0.0)
    contrastive: Optimisation = Optimisation(
        steps=3_000, batch=128, learning_rate=1e-3, weight_decay=1e-2
    )
    attributes: Optimisation = Optimisation(
        steps=3_000, batch=64, learning_rate=1e-3, weight_decay=1e-2
    )
    taste: Optimisation = Optimisation(steps=2_000, batch=64, learning_rate=1e-3, weight_decay=1e-2)
    time_mean: float = 0.4
    """Mean of the logit of the times at which the base models learn (Esser et al. 2024, section
    3.1). Above 0 is towards noise, where it is decided what goes where."""
    time_std: float = 1.2
    caption_dropout: float = 0.1
    """How often a base model learns without the caption."""
    image_noise: float = 0.25
    """Most noise, in pixels of [0,1], that is added to what the verifiers learn from."""
    num_scenes: int = 200_000
    chunk: int = 500
    """Steps between two checkpoints."""
    seed: int = 0


def base_loss(name: str, settings: Optimisation, training: Training) -> Loss:
    """Flow matching (Lipman et al. 2023), the network saying the clean picture.

    The velocity is `(x - x0) / t`, so a mistake about `x0` counts `1 / t^2` times.
    """
    apply, words = network(name), network(name, "words")

    def loss(params: PyTree, key: Array, scenes: Pool) -> Array:
        key_batch, key_time, key_noise, key_drop = jax.random.split(key, 4)
        seen = batch(key_batch, scenes, settings.batch)
        level = jax.random.normal(key_time, (settings.batch,))
        t = jax.nn.sigmoid(training.time_mean + training.time_std * level)
        per_picture = t[:, None, None, None]
        clean = 2 * seen.images - 1
        noise = jax.random.normal(key_noise, clean.shape)
        dropped = jax.random.bernoulli(key_drop, training.caption_dropout, (settings.batch, 1))
        told = words(params, jnp.where(dropped, PADDING, seen.tokens))
        found = apply(params, (1 - per_picture) * clean + per_picture * noise, t, told)
        return jnp.mean(((found - clean) / jnp.maximum(per_picture, 0.05)) ** 2)

    return loss


def _noisy(key: Array, images: Array, most: float) -> Array:
    """Images with noise of any level, so that scores of unfinished samples mean something."""
    key_level, key_noise = jax.random.split(key)
    level = jax.random.uniform(key_level, (len(images), 1, 1, 1), maxval=most)
    return jnp.clip(images + level * jax.random.normal(key_noise, images.shape), 0, 1)


def contrastive_loss(settings: Optimisation, training: Training) -> Loss:
    """Both cross-entropies of CLIP (Radford et al. 2021, figure 3).

    Pictures of which the same was said are no examples against each other.
    """
    image, caption = network("contrastive", "image"), network("contrastive", "caption")
    scale = network("contrastive", "scale")

    def loss(params: PyTree, key: Array, scenes: Pool) -> Array:
        key_batch, key_noise = jax.random.split(key)
        seen = batch(key_batch, scenes, settings.batch)
        images = image(params, _noisy(key_noise, seen.images, training.image_noise))
        captions = caption(params, seen.tokens)
        unit = [x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (images, captions)]
        logits = scale(params) * unit[0] @ unit[1].T
        same = (seen.asked[:, None] == seen.asked[None]) & ~jnp.eye(settings.batch, dtype=bool)
        logits = jnp.where(same, -jnp.inf, logits)
        own = jnp.arange(settings.batch)
        both = [optax.softmax_cross_entropy_with_integer_labels(x, own) for x in (logits, logits.T)]
        return jnp.mean(both[0] + both[1]) / 2

    return loss


def attributes_loss(settings: Optimisation, training: Training) -> Loss:
    """Cross-entropy of how many there are of each kind."""
    apply = network("attributes")

    def loss(params: PyTree, key: Array, scenes: Pool) -> Array:
        key_batch, key_noise = jax.random.split(key)
        seen = batch(key_batch, scenes, settings.batch)
        logits = apply(params, _noisy(key_noise, seen.images, training.image_noise))
        counts = jnp.sum(jax.nn.one_hot(seen.kind, NUM_KINDS, dtype=jnp.int32), axis=1)
        found = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.minimum(counts, MOST))
        return jnp.mean(jnp.sum(found, axis=-1))

    return loss


def taste_loss(settings: Optimisation, training: Training) -> Loss:
    """Mean square of what is off `pleasantness`."""
    apply = network("taste")

    def loss(params: PyTree, key: Array, scenes: Pool) -> Array:
        key_batch, key_noise = jax.random.split(key)
        images = batch(key_batch, scenes, settings.batch).images
        noisy = _noisy(key_noise, images, training.image_noise)
        return jnp.mean((apply(params, noisy) - pleasantness(images)) ** 2)

    return loss


LOSSES: dict[str, Callable[[Optimisation, Training], Loss]] = {
    "large": functools.partial(base_loss, "large"),
    "small": functools.partial(base_loss, "small"),
    "contrastive": contrastive_loss,
    "attributes": attributes_loss,
    "taste": taste_loss,
}


def _made(name: str, key: Array) -> PyTree:
    """The parameters of a network of that name, drawn."""
    return parameters(build(name, nnx.Rngs(key)))


def train_all(
    training: Training,
    folder: Path,
    *,
    only: tuple[str, ...] = NAMES,
    after_chunk: Callable[[str, int], None] = lambda name, step: None,
) -> None:
    """Trains networks and stores their weights.

    Args:
        training: the configuration.
        folder: of checkpoints and weights; a run found there goes on.
        only: names of networks.
        after_chunk: told the network and the steps done once they are safe on disk.

    Raises:
        ValueError: if a network is unknown, or the folder holds a run of another configuration.
    """
    for name in only:
        if name not in NAMES:
            raise ValueError(f"no network {name!r}: there are {', '.join(NAMES)}")
    claim(folder, training)
    scenes = pool(training.num_scenes, seed=training.seed)
    key = jax.random.key(training.seed)
    for name in only:
        settings = getattr(training, name)
        found = train(
            name,
            functools.partial(_made, name),
            LOSSES[name](settings, training),
            scenes,
            settings,
            folder / "checkpoints",
            key=jax.random.fold_in(key, NAMES.index(name)),
            chunk=training.chunk,
            after_chunk=after_chunk,
        )
        save_safetensors(found, folder / f"{name}.safetensors", dtype=jnp.float16)


def main(
    training: Training = Training(),
    output: Path = Path("runs/train_scenes"),
    only: tuple[str, ...] = NAMES,
    install: bool = False,
) -> None:
    """Trains and stores.

    Args:
        training: the configuration.
        output: folder of checkpoints and weights; a run found there goes on.
        only: names of networks; all unless some are given.
        install: whether to copy the weights into the package.
    """
    train_all(training, output, only=only)
    if install:
        for name in only:
            weights = (output / f"{name}.safetensors").read_bytes()
            (WEIGHTS / f"{name}.safetensors").write_bytes(weights)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
