"""What tests of folders of pipelines have in common: a trajectory, the command, a damage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch import cli
from jaxsearch.core.process import SCHEDULES
from jaxsearch.core.types import Array, Schedule
from jaxsearch.solvers import first_order
from jaxsearch.zoo.model import Model
from tests.models.published import relative

PROMPTS = ["The CAT's hat ", "the cat " * 40]
NOISE = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)


def steps_of(model: Model, settings: dict[str, Any], num_steps: int) -> Schedule:
    """The schedule of a folder's own scheduler, in so many steps."""
    chosen = {**settings, "num_steps": num_steps}
    return SCHEDULES[chosen.pop("name")](model.denoiser.process, **chosen)


def sampled(model: Model, schedule: Schedule) -> Array:
    """`NOISE` through the sampler, without noise in between, as `PROMPTS` say."""
    solver, num = first_order(schedule, eta=0.0), len(NOISE)

    @jax.jit
    def run(denoiser, x, cond):
        def step(i, x):
            index = jnp.full(num, i, jnp.int32)
            return solver.step(lambda x, t: denoiser(x, t, cond), x, index, 0.0 * x, ()).x

        return jax.lax.fori_loop(0, len(schedule.sigma) - 1, step, x)

    return run(model.denoiser, jnp.asarray(NOISE), model.prompts(PROMPTS).cond)


def check_sampled(model: Model, x: Array, latents: Any, images: Any, record: Callable) -> None:
    """Latents and pictures are those of a pipeline of diffusers."""
    pictures = jax.jit(lambda decoder, x: decoder(x))(model.decoder, x)
    wanted = (images / 2 + 0.5).clamp(0, 1)
    assert 0.1 < float((images.abs() < 1).float().mean()) < 1.0  # there is something to compare
    record("latents", relative(x, latents))
    record("images", relative(pictures, wanted))
    assert relative(x, latents) < 1e-4
    assert relative(pictures, wanted) < 1e-4


def edit(path: Path, **changes: Any) -> None:
    """Changes entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def search(folder: Path, *more: str) -> int:
    """The command, in a few steps of short prompts."""
    fixed = ["--schedule.num_steps", "3", "--report", "--quiet"]
    fixed += ["--model.max_sequence_length", "12"]
    return cli.main(["search", "--model", str(folder), *fixed, *more])


def check_searched(
    folder: Path, texts: Sequence[str], capsys: Any, *more: str, search: Callable = search
) -> None:
    """The command searches a folder for these prompts, and replays what it found."""
    assert search(folder, *more, "--prompts", *texts, "--output", "run") == 0
    lines = Path("run/records.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == list(texts)
    assert cli.main(["replay", "run"]) == 0
    assert f"{len(texts)} of {len(texts)} images identical" in capsys.readouterr().out


def check_refused(folder: Path, capsys: Any, message: str, *, search: Callable = search) -> None:
    """The command refuses a damaged folder in one line, and writes nothing."""
    assert search(folder) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.startswith("jaxsearch: ")
    assert complaint.count("\n") == 1
    assert not Path("runs").exists()
