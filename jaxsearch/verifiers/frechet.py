"""The Frechet distance of a growing population as a verifier: an oracle for searches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from jaxsearch.core.types import Array, Problem, PyTree, SearchResult, Verifier
from jaxsearch.metrics.extractor import Extracted, Extractor
from jaxsearch.metrics.greedy import Running, Terms, gain, take_in, terms

NAME = "frechet"


def frechet(extractor: Extractor, population: Running) -> Verifier:
    """Rewards images that bring a population nearer to a reference.

    The score is by how much the Frechet distance would fall if the image were taken in, times the
    number of images there would be; it may be below zero. The population is among the weights:
    while a search goes on it stays as it is, and a new one makes no new program.

    Args:
        extractor: of the features that the population and its reference are known by.
        population: as it is now.

    Reference:
        Ma et al., *Inference-time scaling for diffusion models beyond scaling denoising steps*,
        2025, section 3, https://arxiv.org/abs/2501.09732.
    """
    params = {"network": extractor.params, "population": terms(population)}
    return Verifier(name=NAME, apply=_apply(extractor.apply), params=params)


@functools.cache
def _apply(
    extract: Callable[[PyTree, Array], Extracted],
) -> Callable[[PyTree, Array, dict[str, Array]], Array]:
    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        known: Terms = params["population"]
        return gain(known, extract(params["network"], images).features)

    return apply


class FrechetOracle:
    """A population that takes in what was found before it judges what comes next.

    As `after` of `search_in_groups` it is Ma et al.'s oracle: of each prompt's candidates the one
    is kept that lowers the distance most, and the population goes on from there.

    Args:
        extractor: of the features that the population and its reference are known by.
        population: to begin with, made by `metrics.greedy.running`.

    Attributes:
        population: as it is now.
    """

    def __init__(self, extractor: Extractor, population: Running) -> None:
        self._extractor, self.population = extractor, population

    @property
    def verifier(self) -> Verifier:
        """For the problem's objective, alone or among others."""
        return frechet(self._extractor, self.population)

    def __call__(self, problem: Problem, found: SearchResult) -> Problem:
        """Takes the samples [P] in, in the order of their prompts, and renews the verifier.

        Raises:
            ValueError: if the problem has no verifier of this kind.
        """
        extract, params = self._extractor.apply, self._extractor.params
        features = _features(extract, params, problem, found.particle.x)
        self.population = take_in(self.population, np.asarray(features))
        objective, renewed = problem.objective, self.verifier
        if all(one.name != NAME for one in objective.verifiers):
            names = ", ".join(one.name for one in objective.verifiers) or "none"
            raise ValueError(f"the problem's verifiers are {names}: let one be the oracle's")
        verifiers = tuple(renewed if one.name == NAME else one for one in objective.verifiers)
        objective = dataclasses.replace(objective, verifiers=verifiers)
        return dataclasses.replace(problem, objective=objective)


@functools.partial(jax.jit, static_argnums=0)
def _features(
    extract: Callable[[PyTree, Array], Extracted], params: PyTree, problem: Problem, latents: Array
) -> Array:
    return extract(params, problem.objective.decoder(latents)).features
