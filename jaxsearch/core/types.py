"""The types that every other file speaks in.

Letters in shapes: `P` prompts, `K` candidates per prompt, `N = P*K` particles, `n` particles of one
microbatch, `T` solver steps, `S` steps per round, `R` rounds, `B` renoisings, `M` Gaussians per
noise recipe, `*E` the shape of one latent, `V` verifiers, `h, w, c` an image. A higher score is
better.

Models are callable pytrees: `params` are leaves (so weights are arguments of a jitted program,
never constants inside it), `apply` and the other fields are static.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
PyTree = Any


def static(**kwargs: Any) -> Any:
    """A dataclass field that is part of a pytree's structure and not one of its leaves."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


# --------------------------------------------------------------------------------------- processes


class Prediction(NamedTuple):
    """What a network says of a noisy latent `x = alpha*x0 + sigma*eps`.

    Both are needed: recovering one from the other divides by `alpha` or `sigma`, and one of the two
    is zero at an end of the process.
    """

    x0: Array  # [n, *E] estimate of the clean latent, E[x0 | x]
    eps: Array  # [n, *E] estimate of the noise, E[eps | x]


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """The forward process `x_t = alpha(t)*x0 + sigma(t)*eps` in the network's own time `t`.

    The functions take and return NumPy float64: solver coefficients are computed once, on the host,
    in double precision, and enter the program as float32 tables.

    Attributes:
        name: `"edm"`, `"variance_preserving"`, `"flow"` or `"trigonometric"`.
        alpha: time -> scale of the clean latent.
        sigma: time -> scale of the noise.
        time: noise-to-signal ratio `sigma/alpha` -> time, the inverse of the two above.
        prior_scale: time of the first step -> standard deviation of the initial latent.
    """

    name: str
    alpha: Callable[[np.ndarray], np.ndarray]
    sigma: Callable[[np.ndarray], np.ndarray]
    time: Callable[[np.ndarray], np.ndarray]
    prior_scale: Callable[[float], float]


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """The `T + 1` points at which a solver visits a process, from noise to clean (float64).

    The last point is the sample itself: `sigma[T]` is 0 unless the schedule says otherwise, and no
    network is ever called there.
    """

    process: Process
    times: np.ndarray  # [T + 1]
    alpha: np.ndarray  # [T + 1]
    sigma: np.ndarray  # [T + 1]

    @property
    def num_steps(self) -> int:
        """`T`, the number of solver steps."""
        return len(self.times) - 1

    @property
    def levels(self) -> np.ndarray:
        """[T] noise-to-signal ratio at which a step begins; infinite where there is no signal."""
        with np.errstate(divide="ignore"):
            return self.sigma[:-1] / self.alpha[:-1]


class StepResult(NamedTuple):
    """Where one solver step leads."""

    x: Array  # [n, *E] latent at the next point of the schedule
    x0: Array  # [n, *E] the clean estimate the step used last, free of charge
    memory: PyTree  # [n, ...] what a multistep solver remembers, `()` otherwise


@dataclasses.dataclass(frozen=True, eq=False)
class Solver:
    """A sampler of the reverse process, one step at a time. It never touches a key.

    Attributes:
        name: for messages and records.
        schedule: the points it visits.
        step: `(denoise, x [n,*E], index [n], noise [n,*E], memory) -> StepResult`, where
            `denoise(x, t [n]) -> Prediction` and `index` counts solver steps from 0.
        calls: [T] how often a step calls `denoise`.
        noise_scale: [T] by what a step multiplies its injected noise; 0 where noise has no effect.
        memory: `shape -> memory` of one particle at step 0.
        quiet: the same sampler with the noise off, on the same schedule and with the same memory;
            None where this one injects none. It is not this one fed with zeros: a step that makes
            room for noise has to know that none will come.
        late_noise: whether a step makes its clean estimate before it injects its noise.
    """

    name: str
    schedule: Schedule
    step: Callable[..., StepResult]
    calls: tuple[int, ...]
    noise_scale: tuple[float, ...]
    memory: Callable[[tuple[int, ...]], PyTree] = lambda shape: ()
    quiet: Solver | None = None
    late_noise: bool = False

    @property
    def num_steps(self) -> int:
        """`T`, the number of solver steps."""
        return self.schedule.num_steps

    @property
    def active(self) -> tuple[bool, ...]:
        """[T] whether the injected noise of a step changes anything."""
        return tuple(scale > 0 for scale in self.noise_scale)


# ------------------------------------------------------------------------------------------ models


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
    """A diffusion or flow network behind one interface.

    Attributes:
        apply: `(params, x [n,*E], t [n], cond) -> Prediction`; `cond` is a pytree of [n, ...].
        params: weights, any pytree.
        process: the forward process it was trained on.
        shape: `*E`, the shape of one latent.
        passes: network passes that one call costs (2 under classifier-free guidance).
    """

    apply: Callable[[PyTree, Array, Array, PyTree], Prediction] = static()
    process: Process = static()
    shape: tuple[int, ...] = static()
    passes: int = static(default=1)
    params: PyTree = ()

    def __call__(self, x: Array, t: Array, cond: PyTree) -> Prediction:
        """Predicts the clean latent and the noise of `x` [n,*E] at time `t` [n]."""
        return self.apply(self.params, x, t, cond)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder:
    """Turns latents into images: `(params, latents [n,*E]) -> images [n,h,w,c]` in [0, 1]."""

    apply: Callable[[PyTree, Array], Array] = static()
    params: PyTree = ()

    def __call__(self, latents: Array) -> Array:
        """Images [n,h,w,c], float32 in [0, 1], c = 1 (grey) or 3 (RGB)."""
        return self.apply(self.params, latents)


ESTIMATE = "estimate"
"""The entry of a verifier's context that its sampler gives: see `core/early.py`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Verifier:
    """Scores images; its preprocessing is inside.

    Attributes:
        name: the column it has in records.
        apply: `(params, images [n,h,w,c] float32 in [0,1], context) -> [n] float32`, where
            `context` is a dict of arrays [n, ...] that describe what was asked for.
        needs: the entries of `context` that it reads, such as `("label",)`.
        num_labels: how many labels it knows, from 0; None if it reads none, or takes any.
        params: weights, any pytree.
    """

    name: str = static()
    apply: Callable[[PyTree, Array, dict[str, Array]], Array] = static()
    needs: tuple[str, ...] = static(default=())
    num_labels: int | None = static(default=None)
    params: PyTree = ()

    def __call__(self, images: Array, context: dict[str, Array]) -> Array:
        """Scores [n] of `images` [n,h,w,c].

        Raises:
            ValueError: if `context` lacks an entry that the verifier needs.
        """
        missing = [name for name in self.needs if name not in context]
        if missing:
            remedy = f"pass Prompts(context={{{missing[0]!r}: ...}})"
            if missing[0] == ESTIMATE:
                remedy = "take the solver jaxsearch.keep_estimate(solver, level=...)"
            raise ValueError(
                f"verifier {self.name!r} needs {missing[0]!r} in the prompts' context, which has "
                f"{sorted(context) or 'nothing'}: {remedy}"
            )
        return self.apply(self.params, images, context).astype(jnp.float32)


class Aggregate(NamedTuple):
    """How the scores of several guides become one.

    Attributes:
        name: for messages and records.
        combine: `[K, V] -> [K]` over candidates of one prompt. One that a guide has failed (-inf)
            fails as a whole, whatever comes out.
        relative: whether the result says how candidates compare with each other and nothing about
            one alone, so that numbers of different rounds cannot be compared.
    """

    name: str
    combine: Callable[[Array], Array]
    relative: bool = False


TOTAL = Aggregate("total", lambda scores: jnp.sum(scores, axis=-1))
"""The sum of the guides."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """What a search maximises.

    Attributes:
        decoder: latents to images.
        verifiers: one or more guides.
        aggregate: how the guides' scores become one.
    """

    decoder: Decoder
    verifiers: tuple[Verifier, ...]
    aggregate: Aggregate = static(default=TOTAL)


class Value(NamedTuple):
    """How good is a partial sample: which clean latent stands for it when it is scored.

    Attributes:
        name: for messages and records.
        estimate: `(denoise, solver, particle [n]) -> (particle [n], calls [n] int32)`: the one
            whose `x0` is decoded and the denoiser calls spent on it. A finished sample stands for
            itself, at no call.
        most_calls: `solver -> calls` that an estimate can spend at most.
    """

    name: str
    estimate: Callable[..., tuple[Particle, Array]]
    most_calls: Callable[[Solver], int] = lambda solver: 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """What is searched: a denoiser driven by a solver, its samples judged by an objective."""

    denoiser: Denoiser
    objective: Objective
    solver: Solver = static()
    value: Value = static()


class Prompts(NamedTuple):
    """What samples are asked for.

    A prompt's result depends on its `ids` entry and never on its place in the batch.
    """

    ids: Array  # [P] int32, folded into the key
    cond: PyTree = None  # [P, ...] what the denoiser is conditioned on
    context: dict[str, Array] = {}  # noqa: RUF012  [P, ...] what the verifiers judge against


# ------------------------------------------------------------------------------------------- noise


class Noise(NamedTuple):
    """The recipe of a noise vector: `free + sum_m coefs[m] * normal(keys[m])`.

    A fresh draw is one term with coefficient 1. A moved noise is its pivot's terms plus one. Terms
    are summed in their order, so a recipe gives the same bits wherever it is realised. What no key
    stands for, such as where a gradient has led, is the free part.
    """

    keys: Array  # [..., M] typed PRNG keys
    coefs: Array  # [..., M] float32, zeros after the last term
    free: Array | None = None  # [..., *E] float32; None where all there is are Gaussians


class Legs(NamedTuple):
    """The ways that a particle went before each of its renoisings, the latest last.

    A leg goes from solver step to solver step and ends where it is renoised. One that never was
    stands before all that were and goes from 0 to 0.
    """

    noise: Noise  # [..., B, T + 1, M]; row 0 renoised it, row i + 1 what step i injected
    end: Array  # [..., B] int32, the step at which it was renoised
    back: Array  # [..., B] int32, the earlier step to which that took it


class Particle(NamedTuple):
    """A partial sample and the noise that made it."""

    x: Array  # [..., *E] latent
    x0: Array  # [..., *E] the solver's latest clean estimate; of a finished sample, itself
    step: Array  # [...] int32, solver steps taken
    noise: Noise  # [..., T + 1, M]; row 0 the initial noise, row i + 1 what step i injected
    memory: PyTree = ()  # [..., ] of the solver
    legs: Legs | None = None  # [..., B] what was before `noise`, where it may have been renoised


class NoiseSpace(NamedTuple):
    """All that a searcher may know of the problem: no model, no verifier."""

    shape: tuple[int, ...]  # *E
    num_steps: int  # T
    active: tuple[bool, ...]  # [T] whether noise injected at a step has an effect
    levels: tuple[float, ...]  # [T] noise-to-signal ratio at which a step begins; may be infinite
    rank: int  # M
    root: Callable[..., Particle]  # (noise [..., M], value [..., *E] | None) -> particles at step 0
    renoise: Callable[..., Particle]  # (particle [...], step [...], noise [..., M]) -> back there
    num_guides: int  # V
    compare: Callable[[Array], Array]  # [n, V] -> [n]: scores of what is compared with each other
    blind: bool  # whether the noise of the last step taken has no effect yet on what is scored


GradientOf = Literal["initial", "all"]
"""With respect to what a score is differentiated: the initial noise, or that and all injected."""


# ------------------------------------------------------------------------------------------ search


class Proposal(NamedTuple):
    """What a searcher wants tried: `K` partial samples and the noise of their next `S` steps.

    A candidate that goes 0 steps rests: it is not scored (-inf) and costs nothing.
    """

    parent: Particle  # [K, ...]
    noise: Noise  # [K, S, M]
    value: Array | None = None  # [K, S, *E] the noise itself, where the searcher has drawn it
    steps: Array | None = None  # [K] int32, how many of the S steps each goes; None: all of them


class Evaluation(NamedTuple):
    """What came of a proposal."""

    child: Particle  # [K, ...]
    score: Array  # [K] float32, aggregated; -inf where a verifier returned no finite number
    scores: Array  # [K, V] float32, by verifier
    gradient: Array | None = None  # [K, 1, *E] or [K, S + 1, *E]; None unless the stage wants it


class Cost(NamedTuple):
    """What was spent, by what it is. Every field is int32 with one entry per prompt or none."""

    network_passes: Array | int = 0  # forward passes of the network on one latent
    solver_steps: Array | int = 0  # solver steps of one latent: the papers' "NFE"
    decodes: Array | int = 0  # latents turned into images
    verifier_calls: Array | int = 0  # images scored, once per verifier
    backward_passes: Array | int = 0  # forward passes that were differentiated through


class Stage(NamedTuple):
    """Rounds of one shape: a loop over `ask -> evaluate -> tell`.

    `round` counts the rounds of the stage from 0 and is the same for all prompts, so what hangs on
    it alone (which solver step is searched, say) is no batched state.

    Attributes:
        rounds: how many.
        ask: `(key, round, state) -> proposal`. The key is consumed.
        tell: `(key, round, state, proposal, evaluation) -> state`. The key is consumed.
        finishes: whether its children may be finished samples. If not, none is looked for.
        gradient: with respect to which noises `tell` gets the gradient of each candidate's score;
            None: of no use to it. Parents must then be at step 0.
        then: a stage of another shape that takes turns with this one, round for round; None where
            this one runs alone. It counts its own rounds, and they are part of the search's.
        most_calls: `[T] denoiser calls of each solver step -> calls` that its rounds of one prompt
            can spend at most, for a stage whose candidates go their own number of steps; None: as
            if all went all of them.
    """

    rounds: int
    ask: Callable[[Array, Array, PyTree], Proposal]
    tell: Callable[[Array, Array, PyTree, Proposal, Evaluation], PyTree]
    finishes: bool = True
    gradient: GradientOf | None = None
    then: Stage | None = None
    most_calls: Callable[[Sequence[int]], int] | None = None

    @property
    def turns(self) -> tuple[Stage, ...]:
        """[self, ...] and those that take turns with it, in order."""
        return (self,) if self.then is None else (self, *self.then.turns)


class Searcher(NamedTuple):
    """A policy for which noise to try next, for one prompt; the driver maps it over prompts.

    Attributes:
        name: for messages and records.
        init: `(space, key) -> state`, a pytree of fixed structure.
        stages: `space -> stages`, run in order. Raises `ValueError` where the searcher cannot work
            with the solver.
        rank: `M`, the most Gaussians that one of its noises is made of.
        absolute_scores: what it does with scores that only numbers of the same meaning in every
            round allow, as a verb for the message that refuses a relative aggregate; None: nothing.
            One that compares samples of several rounds keeps their scores by guide and has them
            compared anew, all together, by `NoiseSpace.compare`.
        adaptive: whether what it spends hangs on the scores. `plan` then tells the price of equal
            scores, and a budget is kept by the most that it could spend.
        renoisings: `B`, the most often that one particle is renoised.
        free: whether its noises have a free part. Then all of them do.
    """

    name: str
    init: Callable[[NoiseSpace, Array], PyTree]
    stages: Callable[[NoiseSpace], tuple[Stage, ...]]
    rank: int = 1
    absolute_scores: str | None = None
    adaptive: bool = False
    renoisings: int = 0
    free: bool = False


class Trace(NamedTuple):
    """A search, round by round."""

    best: Array  # [R, P] score of the best finished sample so far, -inf before the first
    current: Array  # [R, P] best score of the round, of finished samples and of estimates alike
    cost: Cost  # [R, P] spent so far


class SearchState(NamedTuple):
    """A search between two rounds: all that is needed to go on."""

    searcher: PyTree  # [P, ...]
    best: Particle  # [P, ...] best finished sample; its step is below T before the first
    score: Array  # [P]
    scores: Array  # [P, V]
    cost: Cost  # [P]
    trace: Trace  # [R, P], filled up to `round`
    round: Array  # [] int32, rounds done


class SearchResult(NamedTuple):
    """The best finished sample of each prompt and what it cost."""

    particle: Particle  # [P, ...]
    score: Array  # [P] float32
    scores: Array  # [P, V] float32
    cost: Cost  # [P]
    trace: Trace  # [R, P]
