"""One loop for all networks that are trained here: AdamW, an average of weights, checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from jaxsearch.core.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Optimisation:
    """How one network is trained: AdamW, a linear warm-up, a cosine to zero."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    ema: float = 0.999
    """Decay of the running average of the weights, which is what is kept."""


class State(NamedTuple):
    """What goes on from step to step."""

    params: PyTree
    ema: PyTree
    optimiser: PyTree


Loss = Callable[[PyTree, Array, Any], Array]  # (params, key, data) -> scalar


def optimiser(settings: Optimisation) -> optax.GradientTransformation:
    """AdamW with its learning rate warmed up over a twentieth of the steps."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, max(settings.steps // 20, 1), settings.steps
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=settings.weight_decay)
    )


def train(
    name: str,
    init: Callable[[Array], PyTree],
    loss: Loss,
    data: PyTree,
    settings: Optimisation,
    folder: Path,
    *,
    key: Array,
    chunk: int,
    after_chunk: Callable[[str, int], None] = lambda name, step: None,
) -> PyTree:
    """Trains one network from its last checkpoint on, or from the start.

    Step `i` draws its batch and its noise from `fold_in(key, i)` alone, so that where a run was
    interrupted has no effect.

    Args:
        name: of the network, and of the folder of its checkpoints.
        init: a key to fresh weights.
        loss: `(params, key, data)` to what is minimised, on a batch that it draws from the data.
        data: what is learnt from, a pytree of arrays.
        settings: of the optimiser.
        folder: of the checkpoints.
        key: of all randomness.
        chunk: steps between two checkpoints.
        after_chunk: told the network and the steps done once they are safe on disk.

    Returns:
        The average of the weights.
    """
    key_init, key_steps = jax.random.split(key)
    transform = optimiser(settings)

    def one_step(data: PyTree, state: State, step: Array) -> tuple[State, Array]:
        key = jax.random.fold_in(key_steps, step)
        value, gradient = jax.value_and_grad(loss)(state.params, key, data)
        updates, opt = transform.update(gradient, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        # The average starts short: its first weights are not worth remembering.
        decay = jnp.minimum(settings.ema, (1 + step) / (10 + step))
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, params)
        return State(params, ema, opt), value

    @functools.partial(jax.jit, static_argnames="num", donate_argnums=1)
    def many_steps(data: PyTree, state: State, start: Array, num: int) -> tuple[State, Array]:
        steps = start + jnp.arange(num)
        state, values = jax.lax.scan(functools.partial(one_step, data), state, steps)
        return state, jnp.mean(values)

    params = init(key_init)
    state = State(params, jax.tree.map(jnp.copy, params), transform.init(params))
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder.absolute() / name, options=options) as manager:
        done = manager.latest_step() or 0
        if done:
            state = manager.restore(done, args=ocp.args.StandardRestore(state))
        while done < settings.steps:
            begin, num = time.perf_counter(), min(chunk, settings.steps - done)
            state, value = many_steps(data, state, jnp.int32(done), num)
            if not math.isfinite(value):
                raise ValueError(f"{name}: the loss is {float(value)} at step {done + num}")
            done += num
            manager.save(done, args=ocp.args.StandardSave(state))
            pace = (time.perf_counter() - begin) / num
            print(
                f"{name}: step {done} of {settings.steps}, loss {float(value):.4f}, "
                f"{(settings.steps - done) * pace / 60:.0f} min left",
                flush=True,
            )
            after_chunk(name, done)
    return state.ema


def claim(folder: Path, training: Any) -> None:
    """Makes the folder of a run and notes its configuration.

    Args:
        folder: new, or that of a run of the same configuration.
        training: a dataclass.

    Raises:
        ValueError: if the folder holds a run of another configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = json.dumps(dataclasses.asdict(training), indent=2) + "\n"
    config = folder / "config.json"
    if config.exists() and config.read_text() != wanted:
        raise ValueError(f"{config} is of another configuration: choose another --output")
    config.write_text(wanted)
