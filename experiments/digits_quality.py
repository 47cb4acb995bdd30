"""How good are the digits' three networks: accuracies, and samples against real digits.

Command: `python -m experiments.digits_quality`, for the weights in the package (10 s on 2 cores).
"""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch import metrics
from jaxsearch.core.process import edm, karras
from jaxsearch.core.replay import sample
from jaxsearch.core.types import Array, Objective, Problem, Prompts, PyTree
from jaxsearch.core.value import solver_estimate
from jaxsearch.solvers import heun
from jaxsearch.zoo.digits.data import Splits, splits
from jaxsearch.zoo.digits.load import decoder, denoiser_with, network, weights
from jaxsearch.zoo.digits.network import NO_LABEL, NUM_CLASSES

_SOLVER = heun(karras(edm()))
_DECODER = decoder(enlarge=1)


def sample_digits(params: PyTree, labels: np.ndarray, *, seed: int) -> Array:
    """Digits [n,8,8,1] in [-1,1] by the stochastic Heun sampler, 18 steps (35 network passes).

    Args:
        params: weights of the denoiser.
        labels: [n] int32, 10 for any digit.
        seed: of the noise.
    """
    problem = Problem(
        denoiser=denoiser_with(params),
        objective=Objective(decoder=_DECODER, verifiers=()),
        solver=_SOLVER,
        value=solver_estimate(),
    )
    prompts = Prompts(ids=jnp.arange(len(labels)), cond=jnp.asarray(labels, jnp.int32))
    return sample(jax.random.key(seed), problem, prompts).x


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Between features [n,d] of two populations; see `jaxsearch.metrics`."""
    return metrics.frechet_distance(metrics.statistics_of(first), metrics.statistics_of(second))


def nearest(pixels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distance [n] of each digit to the closest of the others."""
    a, b = pixels.reshape((len(pixels), -1)), others.reshape((len(others), -1))
    squares = np.sum(a**2, 1)[:, None] + np.sum(b**2, 1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares.min(axis=1), 0))


def report(params: dict[str, PyTree], digits: Splits, *, repeats: int = 5) -> dict[str, float]:
    """The figures of the model card.

    Every Frechet distance is between as many digits as are held out (360), in the judge's last
    hidden layer, so that they compare; the real digits beside the held-out ones come from the half
    that the judge has not learnt from. `repeats` sets of samples are averaged.

    Args:
        params: weights by network: "denoiser", "classifier", "judge".
        digits: the splits the weights were trained on.
        repeats: sets of samples.
    """
    features = jax.jit(network("judge", "features"))
    logits = {name: jax.jit(network(name)) for name in ("classifier", "judge")}
    held_out, num = digits.held_out, len(digits.held_out.labels)
    train = np.concatenate([digits.classifier.pixels, digits.judge.pixels])

    def features_of(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(features(params["judge"], _DECODER(jnp.asarray(pixels))))

    def accuracy(name: str, pixels: np.ndarray, labels: np.ndarray) -> float:
        said = np.argmax(logits[name](params[name], _DECODER(jnp.asarray(pixels))), axis=-1)
        return float(np.mean(said == labels))

    real = features_of(held_out.pixels)
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(float(value))

    for name in ("classifier", "judge"):
        note(f"{name}_accuracy", accuracy(name, held_out.pixels, held_out.labels))
    note("nearest_real", nearest(held_out.pixels, train).mean())
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(digits.classifier.labels))
        others = digits.classifier.pixels[order[:num]]
        note("frechet_real", frechet_distance(features_of(others), real))
        matched = np.concatenate(
            [
                order[digits.classifier.labels[order] == label][: np.sum(held_out.labels == label)]
                for label in range(NUM_CLASSES)
            ]
        )
        others = digits.classifier.pixels[matched]
        note("frechet_real_same_labels", frechet_distance(features_of(others), real))
        free = np.asarray(sample_digits(params["denoiser"], np.full(num, NO_LABEL), seed=seed))
        asked = held_out.labels
        given = np.asarray(sample_digits(params["denoiser"], asked, seed=repeats + seed))
        note("frechet_unconditional", frechet_distance(features_of(free), real))
        note("frechet_conditional", frechet_distance(features_of(given), real))
        for name in ("classifier", "judge"):
            note(f"conditional_{name}_accuracy", accuracy(name, given, asked))
        said = np.argmax(logits["judge"](params["judge"], _DECODER(jnp.asarray(free))), axis=-1)
        counts = np.bincount(said, minlength=NUM_CLASSES) / num
        note("unconditional_rarest_class", counts.min())
        note("unconditional_commonest_class", counts.max())
        note("nearest_unconditional", nearest(free, train).mean())
        note("nearest_conditional", nearest(given, train).mean())
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}


if __name__ == "__main__":
    names = ("denoiser", "classifier", "judge")
    print(json.dumps(report({name: weights(name) for name in names}, splits()), indent=2))
