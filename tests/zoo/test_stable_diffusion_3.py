"""Stable Diffusion 3's folders, from the prompt to the picture, beside the pipeline's own call.

The pipeline is tiny and random (`tests/models/pipelines.py`).
"""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch import cli
from jaxsearch.core.process import shifted
from jaxsearch.solvers import first_order
from jaxsearch.zoo import entry
from jaxsearch.zoo.scheduler import flow_scheduler
from tests.models.pipelines import LENGTH, stable_diffusion_3
from tests.models.published import relative, to_torch

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.filterwarnings("ignore:the prompt")  # one of `PROMPTS` is too long

PROMPTS = ["The CAT's hat ", "the cat " * 40]
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
    noise = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    latents = pipeline(
        PROMPTS,
        negative_prompt=[NEGATIVE] * 2,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=to_torch(noise),
        height=16,
        width=16,
        max_sequence_length=MORE,
        output_type="latent",
    ).images
    vae = pipeline.vae
    images = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample

    found = entry(str(folder))
    model = found.load(guidance=3.0, negative_prompt=NEGATIVE, max_sequence_length=MORE)
    settings = {**found.defaults["schedule"], "num_steps": STEPS}
    assert settings.pop("name") == "shifted"
    schedule = shifted(model.denoiser.process, **settings)
    np.testing.assert_allclose(schedule.sigma, pipeline.scheduler.sigmas, rtol=1e-5)
    solver = first_order(schedule, eta=0.0)

    @jax.jit
    def run(denoiser, x, cond):
        def step(i, x):
            index = jnp.full(2, i, jnp.int32)
            return solver.step(lambda x, t: denoiser(x, t, cond), x, index, 0.0 * x, ()).x

        return jax.lax.fori_loop(0, STEPS, step, x)

    cond = model.prompts(PROMPTS).cond
    assert (cond.tokens.shape, cond.pooled.shape) == ((2, LENGTH + MORE, 40), (2, 30))
    x = run(model.denoiser, jnp.asarray(noise), cond)
    pictures = jax.jit(lambda decoder, x: decoder(x))(model.decoder, x)
    wanted = (images / 2 + 0.5).clamp(0, 1)
    assert 0.1 < float((images.abs() < 1).float().mean()) < 1.0  # there is something to compare
    record_property("latents", relative(x, latents))
    record_property("images", relative(pictures, wanted))
    assert relative(x, latents) < 1e-4
    assert relative(pictures, wanted) < 1e-4


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


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)
    return tmp_path


def search(folder, *more):
    fixed = ["--schedule.num_steps", "3", "--report", "--quiet"]
    fixed += ["--model.max_sequence_length", "12"]
    return cli.main(["search", "--model", str(folder), *fixed, *more])


def test_a_folder_is_searched(made, work, capsys):
    """With a diffusion coefficient of one's choice."""
    texts = ["the cat, twice", "the cat, twice"]
    more = ["--searcher", "best_of_n", "--searcher.candidates", "2", "--solver", "flow_sde"]
    more += ["--prompts", *texts, "--output", "run"]
    assert search(made[1], *more) == 0
    lines = (work / "run" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == texts
    assert cli.main(["replay", "run"]) == 0
    assert "2 of 2 images identical" in capsys.readouterr().out


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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
    assert search(one) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.startswith("jaxsearch: ")
    assert complaint.count("\n") == 1
    assert not (work / "runs").exists()
