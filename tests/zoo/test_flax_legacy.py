"""The Flax pipeline of an older diffusers, beside its own call; skipped where there is none.

In an environment of its own: `pip install ".[flax-legacy]" pytest`, then
`pytest -n 0 tests/zoo/test_flax_legacy.py`.
"""

from __future__ import annotations

import json
import math
from importlib import metadata

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.process import trained_steps
from jaxsearch.core.search import search
from jaxsearch.core.types import Objective, Problem
from jaxsearch.core.value import solver_estimate
from jaxsearch.searchers import best_of_n
from jaxsearch.solvers import first_order
from jaxsearch.verifiers import VERIFIERS
from jaxsearch.zoo.flax_legacy import flax_pipeline, flax_scheduler
from tests.models.pipelines import vocabulary


def _without_flax() -> bool:
    """Whether a library is missing, or has no Flax any more; none of them is imported."""
    for package, first in (("diffusers", (0, 40)), ("transformers", (5, 0))):
        try:
            found = tuple(map(int, metadata.version(package).split(".")[:2]))
        except metadata.PackageNotFoundError:
            return True
        if found >= first:
            return True
    return False


pytestmark = [
    pytest.mark.skipif(
        _without_flax(),
        reason="Flax was removed from diffusers 0.40 and transformers 5 (extra flax-legacy)",
    ),
    pytest.mark.filterwarnings("ignore"),  # of versions that are maintained no more
]

PROMPT, NEGATIVE, STEPS, GUIDANCE = "the cat", "a hat", 4, 3.0


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """Its code was not written for what our tests demand."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny pipeline with random weights, and these."""
    from diffusers import (
        FlaxAutoencoderKL,
        FlaxDDIMScheduler,
        FlaxStableDiffusionPipeline,
        FlaxUNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTokenizer, FlaxCLIPTextModel

    folder, words = tmp_path_factory.mktemp("tokenizer"), vocabulary()
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.model_max_length = 12
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        text = FlaxCLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=12,
            ),
            _do_init=False,
        )  # fmt: skip
        unet = FlaxUNet2DConditionModel(
            sample_size=8, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
        )  # fmt: skip
        vae = FlaxAutoencoderKL(
            block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=16,
        )  # fmt: skip
        steps = FlaxDDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
            clip_sample=False,
            set_alpha_to_one=False,
        )  # fmt: skip
        key = jax.random.key(0)
        params = {
            "unet": random(jax.eval_shape(unet.init_weights, key)),
            "vae": random(jax.eval_shape(vae.init_weights, key)),
            "text_encoder": random(text.params_shape_tree),
            "scheduler": steps.create_state(),
        }
    pipeline = FlaxStableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=steps,
        safety_checker=None, feature_extractor=None,
    )  # fmt: skip
    return pipeline, params


def random(shapes):
    """Weights of which none is zero or one: those would hide what they multiply or add to."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape) * math.prod(leaf.shape[:-1] or (4,)) ** -0.5
        scale = path[-1].key == "scale"
        return jnp.asarray(values + scale, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, flax.core.unfreeze(shapes))


@pytest.fixture(scope="module")
def model(made):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return flax_pipeline(*made, guidance=GUIDANCE, negative_prompt=NEGATIVE)


def test_a_trajectory_is_that_of_the_pipeline(made, model):
    """Kills: axes the wrong way round; the scale of latents; the negative prompt for the prompt's;
    guidance; the scheduler's steps.
    """
    pipeline, params = made
    noise = np.random.default_rng(1).normal(size=(1, 8, 8, 4)).astype(np.float32)
    wanted = pipeline(
        pipeline.prepare_inputs([PROMPT]),
        params,
        jax.random.key(0),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=jnp.asarray(noise.transpose(0, 3, 1, 2)),
        neg_prompt_ids=pipeline.prepare_inputs([NEGATIVE]),
    ).images
    denoiser, decoder = model.denoiser, model.decoder
    schedule = flax_scheduler(pipeline).schedule
    solver = first_order(trained_steps(denoiser.process, num_steps=STEPS, **schedule), eta=0.0)
    cond = model.prompts([PROMPT]).cond

    @jax.jit
    def run(denoiser, x, cond):
        def step(i, x):
            index = jnp.full(1, i, jnp.int32)
            return solver.step(lambda x, t: denoiser(x, t, cond), x, index, 0.0 * x, ()).x

        return jax.lax.fori_loop(0, STEPS, step, x)

    found = decoder(run(denoiser, jnp.asarray(noise), cond))
    assert found.shape == wanted.shape == (1, 16, 16, 3)
    assert np.mean((wanted > 0) & (wanted < 1)) > 0.1  # there is something to compare
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_it_is_searched(made, model):
    brightness = VERIFIERS["brightness"]()
    problem = Problem(
        denoiser=model.denoiser,
        objective=Objective(decoder=model.decoder, verifiers=(brightness,)),
        solver=first_order(trained_steps(model.denoiser.process, num_steps=STEPS), eta=1.0),
        value=solver_estimate(),
    )
    prompts, one = model.prompts([PROMPT, "a hat"]), best_of_n(candidates=3)
    found = search(jax.random.key(0), one, problem, prompts)
    plain = search(jax.random.key(0), best_of_n(candidates=1), problem, prompts)
    assert (np.asarray(found.score) >= np.asarray(plain.score)).all()
    np.testing.assert_array_equal(found.cost.network_passes, [2 * 3 * STEPS] * 2)
    images = model.decoder(found.particle.x)
    np.testing.assert_allclose(brightness(images, {}), found.score, atol=1e-5)


def test_bad_requests(made):
    pipeline, params = made
    with pytest.raises(ValueError, match="params have no vae: give those that from_pretrained"):
        flax_pipeline(pipeline, {name: one for name, one in params.items() if name != "vae"})
    with pytest.raises(ValueError, match="height is 9: it must be a multiple of 2"):
        flax_pipeline(pipeline, params, height=9)
