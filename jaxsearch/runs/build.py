"""From a config to the objects that a search takes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxsearch.core.budget import largest
from jaxsearch.core.early import keep_estimate
from jaxsearch.core.plan import fitting, memory, most_network_passes, num_particles
from jaxsearch.core.replay import remake
from jaxsearch.core.search import search
from jaxsearch.core.space import stages_of
from jaxsearch.core.traced import Traced, traced
from jaxsearch.core.types import (
    ESTIMATE,
    Aggregate,
    Array,
    Legs,
    Noise,
    Objective,
    Problem,
    Prompts,
    Searcher,
    Solver,
    Verifier,
)
from jaxsearch.models.placing import SHAPES, placing
from jaxsearch.parallel import loading_onto, num_model_devices, num_particle_devices
from jaxsearch.runs import components, graders
from jaxsearch.runs.config import Component, Config
from jaxsearch.runs.errors import UserError, bytes_text, explained
from jaxsearch.runs.graders import is_grader
from jaxsearch.searchers.early_stop import early_stop
from jaxsearch.zoo import Model, entry
from jaxsearch.zoo.texts import encoders_held
from jaxsearch.zoo.verifiers import FILES, PUBLISHED, Early, Prompted, files_of

Load = Callable[..., Any]
"""What makes a part: `components.build`, or one that keeps what it has made."""


def with_budget(
    config: Config,
    free: str,
    load: Load = components.build,
    mesh: Mesh | None = None,
    *,
    shapes: bool = False,
) -> Config:
    """The config with the largest size of its searcher, the setting `free`, that is affordable.

    `load`, `mesh` and `shapes` are those of `build`.

    Raises:
        UserError: if none is.
    """
    assert config.budget is not None
    name, given = config.searcher.name, config.searcher.settings

    def of_size(size: int) -> Component:
        # Leaves of a round divide the simulations.
        return Component(name, {**given, free: size * max(given.get("leaves", 1), 1)})

    def make(size: int) -> Searcher:
        return load("searcher", name, of_size(size).settings, config.model.name)

    smallest = dataclasses.replace(config, budget=None, searcher=of_size(1))
    problem = build(smallest, most_prompts=1, load=load, mesh=mesh, shapes=shapes).problem
    with explained(name):
        size = largest(make, problem, network_passes=config.budget)
    return dataclasses.replace(config, searcher=of_size(size))


class Built(NamedTuple):
    """All that a run needs."""

    key: Array
    searcher: Searcher
    traced: Traced  # the same searcher, for a program that others of its numbers share
    problem: Problem
    prompts: Prompts
    verifiers: dict[str, Verifier]  # guides first, then those that only report
    num_guides: int
    part: Callable[[int, int], Prompts]  # the prompts from one place of the config's to another

    @property
    def reports(self) -> tuple[Verifier, ...]:
        """Those that only report."""
        return tuple(self.verifiers.values())[self.num_guides :]

    @property
    def roles(self) -> tuple[str, ...]:
        """[V] "guide" or "report"."""
        return tuple(
            "guide" if i < self.num_guides else "report" for i in range(len(self.verifiers))
        )


def files(config: Config) -> dict[str, Path]:
    """What the model and the verifiers of a config are read from, by names of their own."""
    found = dict(entry(config.model.name).files)
    for part in config.guide + config.report:
        if part.name in PUBLISHED:
            for key in FILES:
                given = part.settings.get(key)
                read = files_of(key, given) if given else {}
                found |= {f"{part.name}/{key}/{name}": path for name, path in read.items()}
        elif is_grader(part.name):
            with explained(part.name):
                found |= graders.files_of(part.name, part.settings)
    return found


def build(
    config: Config,
    most_prompts: int | None = None,
    load: Load = components.build,
    mesh: Mesh | None = None,
    *,
    shapes: bool = False,
) -> Built:
    """The objects that a config names.

    Args:
        config: of a run.
        most_prompts: read the first ones alone, if there are more.
        load: what makes a part, with the arguments of `components.build`.
        mesh: devices that share weights get each its part of them while they are read.
        shapes: whether shapes stand for the weights of a model that is read from a folder, and
            zeros for what it makes of texts: enough for a plan, and its files are not read.

    Raises:
        UserError: if a setting is out of range, or the parts do not go together.
    """
    with loading_onto(mesh), encoders_held():
        return _build(config, most_prompts, load, shapes)


def _build(config: Config, most_prompts: int | None, load: Load, shapes: bool) -> Built:
    name = config.model.name

    def part_of(kind: str, part: Component, *args: Any) -> Any:
        return load(kind, part.name, part.settings, name, *args)

    searcher: Searcher = part_of("searcher", config.searcher)
    whole = searcher
    factory = components.factory_of("searcher", config.searcher.name, name)
    numbers = traced(factory, **config.searcher.settings)
    if config.threshold is not None:
        with explained("threshold"):
            searcher = early_stop(searcher, threshold=config.threshold)
            numbers = traced(early_stop, numbers, threshold=config.threshold)
    with placing(SHAPES) if shapes else contextlib.nullcontext():
        model: Model = part_of("model", config.model)
    schedule = part_of("schedule", config.schedule, model.denoiser.process)
    solver: Solver = part_of("solver", config.solver, schedule)
    given = {
        part.name: graders.placeholder(part.name)  # it is asked on the host, where it is
        if is_grader(part.name)
        else part_of("verifier", part)
        for part in config.guide + config.report
    }
    contexts: dict[str, Callable[[Sequence[str]], dict[str, Array]]] = {}
    verifiers: dict[str, Verifier] = {}
    for column, one in given.items():
        if isinstance(one, Prompted):
            contexts[column], one = one.context, one.verifier
        if isinstance(one, Early):
            solver, one = keep_estimate(solver, level=one.level), one.verifier
        verifiers[column] = one

    @functools.cache
    def all_ids() -> np.ndarray:
        return model.ids(config.prompts)

    def part(begin: int, end: int) -> Prompts:
        texts = config.prompts[begin:end]
        with explained("prompts"):
            prompts = model.prompts(texts)
            if begin:  # those before are counted in the ids
                prompts = prompts._replace(ids=jnp.asarray(all_ids()[begin:end]))
        for column, read in contexts.items():
            with explained(column):
                prompts = prompts._replace(context={**prompts.context, **read(texts)})
        _check_context(verifiers, prompts, texts, name)
        return prompts

    prompts = part(0, most_prompts or len(config.prompts))
    guides = tuple(verifiers[part.name] for part in config.guide)
    _check_graders(config, verifiers)
    aggregate: Aggregate = part_of("aggregate", config.aggregate)
    with explained(aggregate.name):
        jax.eval_shape(aggregate.combine, jax.ShapeDtypeStruct((1, len(guides)), jnp.float32))
    if config.threshold is not None and aggregate.relative:
        raise UserError(
            f"a threshold needs scores that mean the same in every round, which {aggregate.name} "
            "does not give: take another aggregate, or no threshold"
        )
    problem = Problem(
        denoiser=model.denoiser,
        objective=Objective(
            decoder=model.decoder,
            verifiers=guides,
            aggregate=aggregate,
        ),
        solver=solver,
        value=part_of("value", config.value),
    )
    key = jax.random.key(config.seed)
    with explained(searcher.name):
        _check_size(searcher, problem, prompts)
        _check_gradient(key, searcher, problem, prompts)
    if config.budget is not None:
        _check_budget(config.budget, whole, problem)  # an early stop only spends less
    return Built(key, searcher, numbers, problem, prompts, verifiers, len(guides), part)


def _check_size(searcher: Searcher, problem: Problem, prompts: Prompts) -> None:
    """Refuses a search whose arrays alone cannot fit, before anything of that size is made."""
    needed, there = memory(searcher, problem, prompts, microbatch=1), _device_bytes()
    if there is not None and needed.total > there * jax.local_device_count():
        part, largest = max(needed._asdict().items(), key=lambda item: item[1])
        raise UserError(
            f"the search needs at least {bytes_text(needed.total)} ({part} {bytes_text(largest)}), "
            f"but there are {bytes_text(there)}: take fewer prompts or candidates, or smaller "
            "settings"
        )


def _device_bytes() -> int | None:
    """The memory of one device; of a CPU that of the machine, if it says it."""
    device = jax.local_devices()[0]
    there = (device.memory_stats() or {}).get("bytes_limit")
    if there is None and hasattr(os, "sysconf"):
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return there


def with_microbatch(config: Config, built: Built, mesh: Mesh | None) -> tuple[Config, str]:
    """The config with as many particles at once as fit, if it leaves that open.

    Returns:
        The config, and what is to be said of it; nothing where all fit or the user has chosen.
    """
    there = _device_bytes()
    if config.microbatch is not None or there is None:
        return config, ""
    searcher, problem, prompts = built.searcher, built.problem, built.prompts
    needed = memory(searcher, problem, prompts, reports=built.reports)
    particles = num_particles(searcher, problem, prompts)
    needed = needed._replace(weights=needed.weights // num_model_devices(mesh))
    microbatch = fitting(needed, particles, there, num_particle_devices(mesh))
    if microbatch is None:
        return config, ""
    return dataclasses.replace(config, microbatch=microbatch), (
        f"{microbatch} particles run at once (--microbatch): all {particles:,} would need about "
        f"{bytes_text(needed.total)}, and a device has {bytes_text(there)}"
    )


def _check_gradient(key: Array, searcher: Searcher, problem: Problem, prompts: Prompts) -> None:
    """Refuses guides without a gradient where one is wanted, before anything is written."""
    stages = stages_of(searcher, problem)
    if any(turn.gradient is not None for stage in stages for turn in stage.turns):
        # Arguments, since weights may be shapes alone.
        arguments = (key, problem, prompts)
        jax.eval_shape(lambda key, *rest: search(key, searcher, *rest), *arguments)


def _check_graders(config: Config, verifiers: Mapping[str, Verifier]) -> None:
    """Refuses mixes in which graders cannot be asked as is wanted."""
    names = [part.name for part in config.guide]
    asked = [name for name in names if is_grader(name)]
    local = [name for name in names if not is_grader(name)]
    if config.grader_fraction < 1 and not (asked and local):
        missing = "no guide is a grader" if not asked else "no other guide says which are the best"
        raise UserError(
            f"grader_fraction is {config.grader_fraction}, but {missing}: name one, or leave it out"
        )
    for name in local if asked else ():
        if ESTIMATE in verifiers[name].needs:
            raise UserError(
                f"{name} needs a clean estimate of the sampler, which is not there beside the "
                f"grader {asked[0]}: let one of them report"
            )


def _check_budget(budget: int, searcher: Searcher, problem: Problem) -> None:
    needed = most_network_passes(searcher, problem)
    if needed > budget:
        raise UserError(
            f"budget is {budget}, too small for {searcher.name}: it needs {needed} network passes "
            "per prompt; allow those, or make its settings smaller"
        )


def _check_context(
    verifiers: Mapping[str, Verifier], prompts: Prompts, texts: Sequence[str], model: str
) -> None:
    for name, verifier in verifiers.items():
        missing = [need for need in verifier.needs if need not in (*prompts.context, ESTIMATE)]
        if missing:
            raise UserError(
                f"{name} needs the {missing[0]} of a prompt, which prompts of {model} do not have: "
                "take another verifier"
            )
        if verifier.num_labels is None:
            continue
        labels = np.asarray(prompts.context[verifier.needs[0]])
        for text, label in zip(texts, labels.tolist(), strict=True):
            if label >= verifier.num_labels:
                raise UserError(
                    f"{name} knows {verifier.num_labels} classes, but the prompt {text!r} is class "
                    f"{label}, counted from 0: leave it out, or give a classifier that knows it"
                )


class Made(NamedTuple):
    """Samples as pictures, with their scores; arrays of JAX inside a program, of NumPy outside."""

    images: Any  # [P, h, w, c] float32 in [0, 1]
    scores: Any  # [P, V] by verifier, as they come: not finite where a verifier failed


def look_by(
    verifiers: tuple[Verifier, ...],
) -> Callable[[Problem, Array, dict[str, Array]], Made]:
    """What decodes latents [n, *E] of a problem and asks verifiers, as `remake` calls it."""

    def look(problem: Problem, latents: Array, context: dict[str, Array]) -> Made:
        images = problem.objective.decoder(latents)
        scores = [verifier(images, context) for verifier in verifiers]
        return Made(images, jnp.stack(scores, axis=-1))

    return look


@functools.partial(jax.jit, static_argnames="microbatch")
def make(
    problem: Problem,
    verifiers: tuple[Verifier, ...],
    noise: Noise,
    prompts: Prompts,
    *,
    legs: Legs | None,
    microbatch: int | None,
) -> Made:
    """Makes samples from their recipes alone, decodes them and asks all verifiers.

    The recipes are noises [P, T + 1, M] and legs [P, B]. One program does it all, the same one in a
    run and in its replay, so that pictures are equal to the last bit.
    """

    return remake(
        problem, noise, prompts, look_by(verifiers), legs=legs, microbatch=microbatch
    ).output


def make_again(built: Built, noise: Noise, legs: Legs | None, microbatch: int | None) -> Made:
    """The samples of recipes, with the scores of all verifiers, as NumPy arrays.

    The recipes are noises [P, T + 1, M] and legs [P, B].
    """
    verifiers = tuple(built.verifiers.values())
    made = make(built.problem, verifiers, noise, built.prompts, legs=legs, microbatch=microbatch)
    return jax.device_get(made)
