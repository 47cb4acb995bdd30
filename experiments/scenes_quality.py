"""How good are the networks of the scenes: samples under the exact check, verifiers on real scenes.

Command: `python -m experiments.scenes_quality`, for the weights in the package.
"""

from __future__ import annotations

import json
import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jsonargparse import auto_cli

from jaxsearch.core.process import shifted
from jaxsearch.core.replay import sample
from jaxsearch.core.types import Objective, Problem, PyTree
from jaxsearch.core.value import solver_estimate
from jaxsearch.solvers import first_order
from jaxsearch.verifiers.embeddings import unit
from jaxsearch.zoo.scenes.captions import TASKS, prompt_set
from jaxsearch.zoo.scenes.check import exact
from jaxsearch.zoo.scenes.data import HELD_OUT, batch, pleasantness, pool
from jaxsearch.zoo.scenes.load import (
    Size,
    decoder,
    denoiser_with,
    network,
    prompts_with,
    weights,
)
from jaxsearch.zoo.scenes.network import MOST
from jaxsearch.zoo.scenes.world import NUM_KINDS


def exact_rates(
    size: Size,
    params: PyTree,
    *,
    num: int = 128,
    guidance: float = 2.0,
    num_steps: int = 20,
    eta: float = 1.0,
    seed: int = 0,
) -> dict[str, float]:
    """How many plain samples show exactly what was asked for, by task and over all.

    Args:
        size: of the base model.
        params: its weights.
        num: captions of each task.
        guidance: scale of classifier-free guidance.
        num_steps: of the sampler.
        eta: how much of the noise it replaces.
        seed: of captions and noise.
    """
    denoiser = denoiser_with(size, params, guidance=guidance)
    problem = Problem(
        denoiser=denoiser,
        objective=Objective(decoder=decoder(), verifiers=()),
        solver=first_order(shifted(denoiser.process, num_steps=num_steps), eta=eta),
        value=solver_estimate(),
    )
    check, rates = jax.jit(exact().__call__), {}
    for task in TASKS:
        asked = prompts_with(size, params, prompt_set(num, tasks=(task,), seed=HELD_OUT + seed))
        latents = sample(jax.random.key(seed), problem, asked).x
        rates[task] = float(np.mean(check(decoder()(latents), asked.context)))
    return {**rates, "all": float(np.mean(list(rates.values())))}


def verifier_figures(num: int = 2048) -> dict[str, float]:
    """The learnt verifiers on real scenes that they have not seen."""
    scenes = batch(jax.random.key(HELD_OUT), pool(20_000, seed=HELD_OUT), num)
    found = {}

    params = weights("contrastive")
    image = network("contrastive", "image")(params, scenes.images)
    caption = network("contrastive", "caption")(params, scenes.tokens)
    asked = np.asarray(scenes.asked)
    first = np.argmax(np.asarray(unit(image)) @ np.asarray(unit(caption)).T, axis=1)
    # A caption that asks for the same is as good as the scene's own.
    found["contrastive_top1"] = float(np.mean(asked[first] == asked))

    logits = network("attributes")(weights("attributes"), scenes.images)
    counts = jnp.sum(jax.nn.one_hot(scenes.kind, NUM_KINDS, dtype=jnp.int32), axis=1)
    said = jnp.argmax(logits, axis=-1) == jnp.minimum(counts, MOST)
    found["attributes_all_right"] = float(jnp.mean(jnp.all(said, axis=-1)))

    taste = np.asarray(network("taste")(weights("taste"), scenes.images))
    rule = np.asarray(pleasantness(scenes.images))
    found["taste_correlation"] = float(np.corrcoef(taste, rule)[0, 1])
    return found


def main(
    num: int = 128,
    guidance: tuple[float, ...] = (1.0, 2.0, 4.0),
    steps: int = 20,
    only: tuple[Size, ...] = get_args(Size),
) -> None:
    """Prints the figures of the model card.

    Args:
        num: captions of each task.
        guidance: scales to sample with.
        steps: of the sampler.
        only: sizes of base models.
    """
    figures: dict[str, object] = {}
    for size in only:
        for scale in guidance:
            rates = exact_rates(size, weights(size), num=num, guidance=scale, num_steps=steps)
            figures[f"{size}, guidance {scale:g}"] = {k: round(v, 3) for k, v in rates.items()}
    half = 1.96 * math.sqrt(0.25 / (num * len(TASKS)))
    figures["half a 95 % interval of all, at most"] = round(half, 3)
    figures |= {name: round(value, 4) for name, value in verifier_figures().items()}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
