"""Stable Diffusion 3's folders, from the prompt to the picture, beside the pipeline's own call.

The pipeline is tiny and random (`tests/models/pipelines.py`).
"""

from __future__ import annotations

import shutil

import jax
import numpy as np
import pytest

from jaxsearch.zoo import entry
from jaxsearch.zoo.scheduler import flow_scheduler
from tests.models.pipelines import LENGTH, stable_diffusion_3
from tests.models.published import to_torch
from tests.zoo.pipelines import (
    NOISE,
    PROMPTS,
    check_refused,
    check_sampled,
    check_searched,
    edit,
    sampled,
    steps_of,
)

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.filterwarnings("ignore:the prompt")  # one of `PROMPTS` is too long

NEGATIVE = "a hat"
STEPS = 4
MORE = 14


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The pipeline and its folder."""
    return stable_diffusion_3(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def one(made, tmp_path):
    """A copy of the folder that a test may damage."""
    return shutil.copytree(made[1], tmp_path / "model")


def test_a_trajectory_is_that_of_diffusers(made, record_property):
    """Three encoders, network, guidance, the shifted steps, a decoder with a shift: together.

    Kills: the encoders' features in another order; padding of T5 that is not seen; a velocity of
    the other sign; a time that is not a thousandfold; the shift taken once, or the steps even.
    """
    pipeline, folder = made
    latents = pipeline(
        PROMPTS,
        negative_prompt=[NEGATIVE] * 2,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=to_torch(NOISE),
        height=16,
        width=16,
        max_sequence_length=MORE,
        output_type="latent",
    ).images
    vae = pipeline.vae
    images = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample

    found = entry(str(folder))
    model = found.load(guidance=3.0, negative_prompt=NEGATIVE, max_sequence_length=MORE)
    steps = steps_of(model, found.defaults["schedule"], STEPS)
    np.testing.assert_allclose(steps.sigma, pipeline.scheduler.sigmas, rtol=1e-5)
    cond = model.prompts(PROMPTS).cond
    assert (cond.tokens.shape, cond.pooled.shape) == ((2, LENGTH + MORE, 40), (2, 30))
    check_sampled(model, sampled(model, steps), latents, images, record_property)


def test_settings(made):
    """Sizes, types and the price of guidance."""
    found = entry(str(made[1]))
    assert found.load(guidance=0.0, max_sequence_length=8).denoiser.passes == 1
    oblong = found.load(height=12, width=24, max_sequence_length=8, dtype="bfloat16")
    assert (oblong.denoiser.passes, oblong.denoiser.shape) == (2, (6, 12, 4))
    leaves = {leaf.dtype.name for leaf in jax.tree.leaves(oblong.denoiser.params["inner"])}
    assert leaves == {"bfloat16", "float32"}
    steps = found.defaults["schedule"]
    assert (steps["num_steps"], steps["shift"]) == (28, 3.0)
    assert {"tokenizer_3/tokenizer.json", "text_encoder_3/model.safetensors"} <= set(found.files)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 18}, "height is 18: it must be a multiple of 4"),
        ({"height": 28}, "latents of 14x8 have 7 patches side by side"),
        ({"guidance": 1.0, "negative_prompt": "a dog"}, "negative_prompt is .a dog., but guidance"),
        ({"max_sequence_length": 1}, "max_sequence_length is 1"),
    ],
)
def test_settings_out_of_range(made, settings, message):
    with pytest.raises(ValueError, match=message):
        entry(str(made[1])).load(**settings)


STEPS_OF_ONE = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.29.0.dev0",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting is True: only False"),
        ({"_class_name": "EulerDiscreteScheduler"}, "_class_name is 'EulerDiscreteScheduler'"),
        ({"shift": 0.0}, "shift is 0.0"),
        ({"shift": None}, "shift is None: it must be a number"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1"),
        ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
    ],
)
def test_unsupported_steps_are_named(change, message):
    assert flow_scheduler(STEPS_OF_ONE)["shift"] == 3.0
    with pytest.raises(ValueError, match=message):
        flow_scheduler({**STEPS_OF_ONE, **change})


# -------------------------------------------------------------------------------------- the command


def test_a_folder_is_searched(made, work, capsys):
    """With a diffusion coefficient of one's choice."""
    more = ["--searcher", "best_of_n", "--searcher.candidates", "2", "--solver", "flow_sde"]
    check_searched(made[1], ["the cat, twice", "the cat, twice"], capsys, *more)


DAMAGES = {
    "part": (
        lambda f: edit(f / "model_index.json", text_encoder_3=[None, None]),
        "model_index.json: text_encoder_3 is None: only 'T5EncoderModel' is supported",
    ),
    "pooled": (
        lambda f: edit(f / "transformer" / "config.json", pooled_projection_dim=16),
        "texts as a whole have 30 features, but the transformer's pooled_projection_dim is 16",
    ),
    "features": (
        lambda f: edit(f / "transformer" / "config.json", joint_attention_dim=16),
        "texts have 40 features, but the transformer's joint_attention_dim is 16",
    ),
    "latents": (
        lambda f: edit(f / "vae" / "config.json", latent_channels=16),
        "the transformer's in_channels is 4, but the vae's latents have 16 channels",
    ),
    "no_weights": (
        lambda f: (f / "text_encoder_2" / "model.safetensors").unlink(),
        "cannot read weights from",
    ),
    "no_tokenizer": (
        lambda f: (f / "tokenizer_3" / "tokenizer.json").unlink(),
        "tokenizer_3/tokenizer.json: no such file, and spiece.model is not read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_refused_in_one_line(one, work, capsys, damage):
    change, message = DAMAGES[damage]
    change(one)
    check_refused(one, capsys, message)
