"""Stable Diffusion's folders, from the prompt to the picture, beside the pipelines that wrote them.

The pipelines are tiny and random, of the forms of versions 1 and 2 (`tests/models/pipelines.py`).
"""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch import cli
from jaxsearch.core.process import trained_steps
from jaxsearch.solvers import first_order
from jaxsearch.zoo import entry
from jaxsearch.zoo.scheduler import OTHER_STEPS, scheduler
from tests.models.pipelines import LENGTH, stable_diffusion
from tests.models.published import relative, to_torch
from tests.runs.small import KINDS
from tests.zoo.pipelines import check_refused, check_searched, edit

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.filterwarnings("ignore:the prompt")  # one of `PROMPTS` is too long

NEGATIVE = "a dog"
PROMPTS = ["The  cat's hat!", "and " * 40]
STEPS = 5
GUIDANCE = 3.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each family's pipeline and its folder, made when it is asked for."""
    made = {}

    def of(family):
        if family not in made:
            made[family] = stable_diffusion(family, tmp_path_factory.mktemp("pipeline"))
        return made[family]

    return of


@pytest.fixture(params=[1, 2])
def pair(request, folders):
    return folders(request.param)


@pytest.fixture
def one(folders, tmp_path):
    """A copy of version 1's folder that a test may damage."""
    return shutil.copytree(folders(1)[1], tmp_path / "model")


# --------------------------------------------------------------------------------- beside diffusers


def trajectory(pipeline, noises, embeddings):
    """The pipeline's own loop with DDIM at eta = 1, with these noises [T + 1, n, h, w, c]."""
    from diffusers import DDIMScheduler

    steps = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    steps.set_timesteps(STEPS)
    x = to_torch(noises[0])
    for time, noise in zip(steps.timesteps, noises[1:], strict=True):
        no, yes = (pipeline.unet(x, time, text).sample for text in embeddings)
        guided = no + GUIDANCE * (yes - no)
        x = steps.step(guided, time, x, eta=1.0, variance_noise=to_torch(noise)).prev_sample
    return x, pipeline.vae.decode(x / pipeline.vae.config.scaling_factor).sample


def test_a_trajectory_is_that_of_diffusers(pair, record_property):
    """Prompts, negative prompt, network, guidance, steps and decoder, all together.

    Kills: noise taken for `v`; the prompt and the negative one exchanged; the padding of one family
    for the other's; the offset of the steps, or the noise at their end, left out.
    """
    pipeline, folder = pair
    found = entry(str(folder))
    model = found.load(guidance=GUIDANCE, negative_prompt=NEGATIVE)
    prompts = model.prompts(PROMPTS)
    theirs, null = pipeline.encode_prompt(
        PROMPTS, "cpu", 1, do_classifier_free_guidance=True, negative_prompt=[NEGATIVE] * 2
    )
    record_property("text", relative(prompts.cond, theirs.numpy()))
    assert relative(prompts.cond, theirs.numpy()) < 1e-5
    assert relative(model.denoiser.params["null"], null[0].numpy()) < 1e-5

    noises = np.random.default_rng(0).normal(size=(STEPS + 1, 2, 8, 8, 4)).astype(np.float32)
    settings = {**found.defaults["schedule"], "num_steps": STEPS}
    assert settings.pop("name") == "trained_steps"
    schedule = trained_steps(model.denoiser.process, **settings)
    solver = first_order(schedule, eta=found.defaults["solver"]["eta"])

    @jax.jit
    def run(denoiser, x, noises, cond):
        for step in range(STEPS):
            index = jnp.full(2, step, jnp.int32)
            x = solver.step(lambda x, t: denoiser(x, t, cond), x, index, noises[step], ()).x
        return x

    x = run(model.denoiser, *(jnp.asarray(part) for part in (noises[0], noises[1:])), prompts.cond)
    latents, images = trajectory(pipeline, noises, (null, theirs))
    wanted = (images / 2 + 0.5).clamp(0, 1)
    assert 0.1 < float((images.abs() < 1).float().mean()) < 1.0  # there is something to compare
    record_property("latents", relative(x, latents))
    record_property("images", relative(model.decoder(x), wanted))
    assert relative(x, latents) < 1e-4
    assert relative(model.decoder(x), wanted) < 1e-4


# ----------------------------------------------------------------------------------------- settings


def test_settings(folders):
    """Sizes, types and the price of guidance; equal settings share one program."""
    load = entry(str(folders(2)[1])).load
    plain = load(guidance=1.0)
    assert (plain.denoiser.passes, plain.denoiser.shape) == (1, (8, 8, 4))
    assert load(guidance=0.5).denoiser.passes == 1
    oblong = load(height=10, width=24)
    assert (oblong.denoiser.passes, oblong.denoiser.shape) == (2, (5, 12, 4))
    assert oblong.denoiser.apply is load().denoiser.apply
    cond = plain.prompts(["the cat"]).cond
    assert (cond.shape, cond.dtype) == ((1, LENGTH, 16), jnp.float32)
    x, t = jnp.ones((1, 5, 12, 4)), jnp.asarray([500.0])
    exact = jax.jit(lambda denoiser: denoiser(x, t, cond).x0)(oblong.denoiser)
    half = load(height=10, width=24, dtype="bfloat16")
    rough = jax.jit(lambda denoiser: denoiser(x, t, cond).x0)(half.denoiser)
    assert 1e-4 < relative(rough, exact) < 0.2
    assert oblong.decoder(exact).shape == (1, 10, 24, 3)
    leaves = jax.tree.leaves(half.decoder.params)
    assert {leaf.dtype.name for leaf in leaves} == {"bfloat16", "float32"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 15}, "height is 15: it must be a multiple of 2"),
        ({"guidance": 1.0, "negative_prompt": "a dog"}, "negative_prompt is .a dog., but guidance"),
        ({"width": 0}, "width is 0: it must be a whole number"),
        ({"guidance": float("nan")}, "guidance scale is nan"),
    ],
)
def test_settings_out_of_range(folders, settings, message):
    with pytest.raises(ValueError, match=message):
        entry(str(folders(1)[1])).load(**settings)


def test_a_prompt_is_the_same_beside_others(folders):
    """Its id and what it becomes hang on its text and on how often that was asked before."""
    read = entry(str(folders(1)[1])).load().prompts
    many = read(["a cat", "the cat", "a cat", "and"])
    few = read(["a cat", "a cat"])
    np.testing.assert_array_equal(many.ids[jnp.asarray([0, 2])], few.ids)
    np.testing.assert_array_equal(many.cond[jnp.asarray([0, 2])], few.cond)
    assert many.ids.dtype == jnp.int32
    assert not many.context


# -------------------------------------------------------------------------------------- the command


def search(folder, *more):
    fixed = ["--schedule.num_steps", "3", "--verifiers.compressibility.max_bytes", "3000"]
    return cli.main(["search", "--model", str(folder), *fixed, "--quiet", *more])


@pytest.mark.parametrize("searcher", KINDS, ids=lambda words: words[0])
def test_a_folder_is_searched(folders, work, capsys, searcher):
    texts = ["the cat, twice", "and", "the cat, twice"]
    more = ["--searcher", *searcher]
    more += ["--model.negative_prompt", NEGATIVE, "--model.guidance", "2"]
    check_searched(folders(2)[1], texts, capsys, *more, search=search)


def test_defaults(folders):
    """DDIM's 50 steps at eta = 1, where the pipeline's own file puts them."""
    _, folder = folders(1)
    defaults = entry(str(folder)).defaults
    steps = {"num_steps": 50, "spacing": "leading", "offset": 1, "final": "first"}
    assert defaults["schedule"] == {"name": "trained_steps", **steps}
    assert defaults["solver"] == {"name": "first_order", "eta": 1.0}


def truncate(path):
    path.write_bytes(path.read_bytes()[:200])


DAMAGES = {
    "pipeline": (
        lambda f: edit(f / "model_index.json", _class_name="KandinskyPipeline"),
        "_class_name is 'KandinskyPipeline', but there is only",
    ),
    "part": (
        lambda f: edit(f / "model_index.json", unet=["diffusers", "UNet2DModel"]),
        "model_index.json: unet is 'UNet2DModel': only 'UNet2DConditionModel' is supported",
    ),
    "no_part": (
        lambda f: (f / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}'),
        "model_index.json has no text_encoder: its class must be CLIPTextModel",
    ),
    "prediction": (
        lambda f: edit(f / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        "scheduler_config.json: the config's prediction_type is 'sample': only 'epsilon' or",
    ),
    "network": (
        lambda f: edit(f / "unet" / "config.json", class_embed_type="timestep"),
        "unet/config.json: the config's class_embed_type is 'timestep'",
    ),
    "features": (
        lambda f: edit(f / "unet" / "config.json", cross_attention_dim=12),
        "texts have 16 features, but the unet's cross_attention_dim is 12",
    ),
    "latents": (
        lambda f: edit(f / "vae" / "config.json", latent_channels=16),
        "the unet's in_channels is 4, but the vae's latents have 16 channels",
    ),
    "no_config": (lambda f: (f / "vae" / "config.json").unlink(), "vae/config.json: no such file"),
    "no_weights": (
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        "cannot read weights from",
    ),
    "cut_weights": (
        lambda f: truncate(f / "text_encoder" / "model.safetensors"),
        "text_encoder/model.safetensors: ",
    ),
    "no_tokenizer": (
        lambda f: (f / "tokenizer" / "vocab.json").unlink(),
        "tokenizer/vocab.json: no such file",
    ),
    "vocabulary": (
        lambda f: edit(f / "tokenizer" / "vocab.json", **{"<|startoftext|>": 9999}),
        "the tokenizer has a token 9999, but the text encoder's vocab_size is ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_refused_in_one_line(one, work, capsys, damage):
    change, message = DAMAGES[damage]
    change(one)
    check_refused(one, capsys, message, search=search)


# ---------------------------------------------------------------------------------------- scheduler


STEPS_OF_ONE = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def test_schedulers():
    found = scheduler(STEPS_OF_ONE)
    assert found.prediction == "epsilon"
    assert found.schedule == {"spacing": "leading", "offset": 1, "final": "first"}
    assert scheduler(STEPS_OF_ONE).process is found.process
    np.testing.assert_allclose(found.process.alpha(np.array([999.0])) ** 2, 0.0047, atol=5e-5)
    few = {k: STEPS_OF_ONE[k] for k in ("_class_name", "beta_start", "beta_end", "beta_schedule")}
    assert scheduler({**few, "steps_offset": 1}).schedule == found.schedule
    assert scheduler(few).schedule == {"spacing": "leading", "offset": 0, "final": "clean"}
    euler = {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear"}
    assert scheduler({**STEPS_OF_ONE, **euler}) == found._replace(
        schedule={"spacing": "linspace", "offset": 0, "final": "clean"}
    )
    even = scheduler({**STEPS_OF_ONE, "timestep_spacing": "linspace"}).schedule
    assert trained_steps(found.process, num_steps=4, **even).sigma[-1] == 0
    ddim = scheduler({**few, "_class_name": "DDIMScheduler", "timestep_spacing": "trailing"})
    assert ddim.schedule == {"spacing": "trailing", "offset": 0, "final": "clean"}


@pytest.mark.parametrize("name", OTHER_STEPS)
def test_other_samplers_stand_for_the_same_process(name):
    """All that the class of `diffusers` writes is known, and its noise levels are the same."""
    import diffusers

    ours = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    theirs = getattr(diffusers, name)(**ours, prediction_type="v_prediction")
    written = dict(theirs.config) | {"_class_name": name, "clip_sample": False}
    found = scheduler(written)
    assert found.prediction == "v_prediction"
    times = np.arange(0, 1000, 111)
    wanted = theirs.alphas_cumprod.numpy()[times]
    np.testing.assert_allclose(found.process.alpha(times.astype(float)) ** 2, wanted, rtol=1e-5)
    assert found.schedule == {"spacing": "leading", "offset": 1, "final": "clean"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "ScoreSdeVeScheduler"}, "_class_name is 'ScoreSdeVeScheduler'"),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            "use_flow_sigmas is True: only False",
        ),
        ({"use_karras_sigmas": True}, "use_karras_sigmas is True: only False"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule is 'squaredcos_cap_v2'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True: only False"),
        ({"thresholding": True}, "thresholding is True: only False"),
        ({"clip_sample": True}, "clip_sample is True: only False"),
        ({"trained_betas": [0.1]}, r"trained_betas is \[0.1\]: only None"),
        (
            {"prediction_type": "flow"},
            "prediction_type is 'flow': only 'epsilon' or 'v_prediction'",
        ),
        ({"timestep_spacing": "karras"}, "timestep_spacing is 'karras'"),
        ({"beta_end": 1.5}, r"beta_end is 1.5: it must lie in \(0, 1\)"),
        ({"beta_end": "x"}, "beta_end is 'x': it must be a number"),
        ({"steps_offset": -1}, "steps_offset is -1"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
    ],
)
def test_unsupported_entries_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        scheduler({**STEPS_OF_ONE, **change})
