"""Stable Diffusion XL's folders, from the prompt to the picture, beside the pipelines' own call.

The pipelines are tiny and random, of the forms of the base and of Turbo
(`tests/models/pipelines.py`).
"""

from __future__ import annotations

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch import cli
from jaxsearch.core.process import trained_steps
from jaxsearch.solvers import first_order
from jaxsearch.zoo import entry
from tests.models.pipelines import LENGTH, stable_diffusion_xl, unet_xl
from tests.models.published import relative, to_torch
from tests.runs.small import KINDS
from tests.zoo.pipelines import check_refused, check_searched, edit

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.filterwarnings("ignore:the prompt")  # one of `PROMPTS` is too long

PROMPTS = ["The  cat's hat!", "and " * 40]
STEPS = 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The base's and Turbo's pipeline and folder, made when asked for."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("pipeline")
            made[name] = stable_diffusion_xl(folder, turbo=name == "turbo")
        return made[name]

    return of


@pytest.fixture
def one(folders, tmp_path):
    """A copy of the base's folder that a test may damage."""
    return shutil.copytree(folders("base")[1], tmp_path / "model")


# --------------------------------------------------------------------------------- beside diffusers


def theirs(pipeline, noises, monkeypatch, **settings):
    """Latents and pictures of the pipeline's own call, from noises [T + 1, n, h, w, c]."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(STEPS)
    injected = iter(noises[1:])
    module = "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor"
    monkeypatch.setattr(module, lambda *_, **__: to_torch(next(injected)))
    # The process is Euler's, whose first latent has another scale where steps are trailing.
    scale = float((scheduler.sigmas.max() ** 2 + 1) ** 0.5)
    latents = to_torch(noises[0]) * scale / float(scheduler.init_noise_sigma)
    call = {"num_inference_steps": STEPS, "latents": latents, **settings}
    found = pipeline(PROMPTS, **call, output_type="latent").images
    injected = iter(noises[1:])
    return found, pipeline.vae.decode(found / pipeline.vae.config.scaling_factor).sample


def ours(folder, noises, *, eta, **settings):
    """Latents and pictures of the same noises, with the steps of the folder's scheduler."""
    found = entry(str(folder))
    model = found.load(**settings)
    steps = {**found.defaults["schedule"], "num_steps": STEPS}
    assert steps.pop("name") == "trained_steps"
    solver = first_order(trained_steps(model.denoiser.process, **steps), eta=eta)

    first, rest = (jnp.asarray(part) for part in (noises[0], noises[1:]))
    x = sampled(solver)(model.denoiser, first, rest, model.prompts(PROMPTS).cond)
    return x, jax.jit(lambda decoder, x: decoder(x))(model.decoder, x)


@functools.cache
def sampled(solver):
    """All steps of a solver as one program, with these noises [T, n, h, w, c]."""

    @jax.jit
    def run(denoiser, x, noises, cond):
        def step(index, x):
            at = jnp.full(2, index, jnp.int32)
            return solver.step(lambda x, t: denoiser(x, t, cond), x, at, noises[index], ()).x

        return jax.lax.fori_loop(0, STEPS, step, x)

    return run


CASES = {
    "told": (
        "base",
        0.0,
        {
            "guidance_scale": 3.0,
            "negative_prompt": ["a dog"] * 2,
            "original_size": (512, 768),
            "crops_coords_top_left": (8, 4),
            "target_size": (32, 24),
        },
        {
            "guidance": 3.0,
            "negative_prompt": "a dog",
            "original_size": [512, 768],
            "crops_coords_top_left": [8, 4],
            "target_size": [32, 24],
        },
    ),
    "turbo": ("turbo", 1.0, {"guidance_scale": 0.0}, {"guidance": 0.0}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_trajectory_is_that_of_diffusers(folders, case, monkeypatch, record_property):
    """Both encoders, sizes, network, guidance, the scheduler's own steps, decoder: all together.

    Kills: the last layer of an encoder read, or its normalisation; the two encoders exchanged;
    one's padding for the other's; height and width exchanged; guidance below 1 taken for some;
    trailing steps taken for leading ones.
    """
    name, eta, call, settings = CASES[case]
    pipeline, folder = folders(name)
    noises = np.random.default_rng(0).normal(size=(STEPS + 1, 2, 8, 8, 4)).astype(np.float32)
    latents, images = theirs(pipeline, noises, monkeypatch, **call)
    x, pictures = ours(folder, noises, eta=eta, **settings)
    wanted = (images / 2 + 0.5).clamp(0, 1)
    assert 0.1 < float((images.abs() < 1).float().mean()) < 1.0  # there is something to compare
    record_property("latents", relative(x, latents))
    record_property("images", relative(pictures, wanted))
    assert relative(x, latents) < 1e-4
    assert relative(pictures, wanted) < 1e-4


def test_another_unet_is_put_into_the_folder(folders, one, tmp_path, monkeypatch):
    """As DPO's is published, with nothing beside it; guided as folders are, away from zeros.

    Kills: zeros for an empty text, or the other way round.
    """
    shutil.rmtree(one / "unet")
    unet, other = unet_xl(tmp_path / "alone")
    unet.conv_out.weight.mul_(0.5)
    unet.save_pretrained(other)
    shutil.copytree(other, one / "unet")
    pipeline = folders("base")[0]
    noises = np.random.default_rng(0).normal(size=(STEPS + 1, 2, 8, 8, 4)).astype(np.float32)
    before = ours(folders("base")[1], noises, eta=0.0)[0]
    with monkeypatch.context() as changed:
        changed.setattr(pipeline, "unet", unet)
        latents, _ = theirs(pipeline, noises, changed)
    x, _ = ours(one, noises, eta=0.0)
    assert relative(x, latents) < 1e-4
    assert relative(before, latents) > 1e-2


# ----------------------------------------------------------------------------------------- settings


def test_settings(folders):
    """Sizes, types and the price of guidance; equal settings share one program."""
    load = entry(str(folders("base")[1])).load
    plain = load(guidance=0.5)
    assert (plain.denoiser.passes, plain.denoiser.shape) == (1, (8, 8, 4))
    oblong = load(height=10, width=24)
    assert (oblong.denoiser.passes, oblong.denoiser.shape) == (2, (5, 12, 4))
    assert oblong.denoiser.apply is load().denoiser.apply
    assert load(original_size=[10, 24]) is load(original_size=(10, 24))
    cond = oblong.prompts(["the cat"]).cond
    assert (cond.text.shape, cond.pooled.shape) == ((1, LENGTH, 36), (1, 10))
    np.testing.assert_array_equal(cond.sizes, [[10, 24, 0, 0, 10, 24]])
    # The decoder stays in float32, as its config has it, and the network does not.
    half = load(height=10, width=24, dtype="bfloat16")
    leaves = {leaf.dtype.name for leaf in jax.tree.leaves(half.denoiser.params["inner"])}
    assert leaves == {"bfloat16", "float32"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.decoder.params)} == {"float32"}


def test_a_decoder_that_may_be_halved_is(one):
    edit(one / "vae" / "config.json", force_upcast=False)
    half = entry(str(one)).load(dtype="bfloat16")
    leaves = {leaf.dtype.name for leaf in jax.tree.leaves(half.decoder.params)}
    assert leaves == {"bfloat16", "float32"}


@pytest.mark.parametrize("case", [("base", 5.0, 50, "leading"), ("turbo", 1.0, 4, "trailing")])
def test_defaults(folders, case):
    """Those of the pipelines; of one distilled to few steps, a few without guidance."""
    name, guidance, num_steps, spacing = case
    found = entry(str(folders(name)[1]))
    steps = {"num_steps": num_steps, "spacing": spacing, "offset": int(name == "base")}
    assert found.defaults["schedule"] == {"name": "trained_steps", **steps, "final": "clean"}
    assert found.load.__kwdefaults__["guidance"] == guidance
    assert {"tokenizer_2/merges.txt", "text_encoder_2/model.safetensors"} <= set(found.files)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 15}, "height is 15: it must be a multiple of 2"),
        ({"guidance": 1.0, "negative_prompt": "a dog"}, "negative_prompt is .a dog., but guidance"),
        ({"guidance": float("inf")}, "guidance scale is inf"),
        ({"original_size": (16,)}, r"original_size is \(16,\): give two numbers"),
        ({"target_size": (0, 16)}, "target_size's number is 0: it must be a whole number from 1"),
        ({"crops_coords_top_left": (-1, 0)}, "crops_coords_top_left's number is -1"),
    ],
)
def test_settings_out_of_range(folders, settings, message):
    with pytest.raises(ValueError, match=message):
        entry(str(folders("base")[1])).load(**settings)


# -------------------------------------------------------------------------------------- the command


def search(folder, *more):
    fixed = ["--schedule.num_steps", "3", "--report", "--quiet"]
    return cli.main(["search", "--model", str(folder), *fixed, *more])


@pytest.mark.parametrize("searcher", KINDS, ids=lambda words: words[0])
def test_its_folder_is_searched(folders, work, capsys, searcher):
    texts = ["the cat, twice", "and", "the cat, twice"]
    more = ["--searcher", *searcher]
    more += ["--model.original_size", "[32, 24]", "--model.guidance", "2"]
    check_searched(folders("base")[1], texts, capsys, *more, search=search)


def settings_of_tokens(folder):
    edit(folder / "tokenizer_2" / "tokenizer_config.json", model_max_length=8)


DAMAGES = {
    "part": (
        lambda f: edit(f / "model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]),
        "model_index.json: text_encoder_2 is 'CLIPTextModel': only 'CLIPTextModelWithProjection'",
    ),
    "zeros": (
        lambda f: edit(f / "model_index.json", force_zeros_for_empty_prompt="yes"),
        "force_zeros_for_empty_prompt is 'yes': it must be true or false",
    ),
    "features": (
        lambda f: edit(f / "unet" / "config.json", cross_attention_dim=12),
        "texts have 36 features, but the unet's cross_attention_dim is 12",
    ),
    "no_sizes": (
        lambda f: edit(
            f / "unet" / "config.json",
            addition_embed_type=None,
            addition_time_embed_dim=None,
            projection_class_embeddings_input_dim=None,
        ),
        "the unet is told a text alone: its addition_embed_type must be 'text_time'",
    ),
    "five_numbers": (
        lambda f: edit(f / "unet" / "config.json", projection_class_embeddings_input_dim=50),
        "the projection_dim of text_encoder_2 is 10, but the unet's projection_class_embeddings",
    ),
    "of_version_1": (
        lambda f: edit(f / "model_index.json", _class_name="StableDiffusionPipeline"),
        "texts have 16 features, but the unet's cross_attention_dim is 36",
    ),
    "latents": (
        lambda f: edit(f / "vae" / "config.json", latent_channels=16),
        "the unet's in_channels is 4, but the vae's latents have 16 channels",
    ),
    "no_weights": (
        lambda f: (f / "text_encoder_2" / "model.safetensors").unlink(),
        "cannot read weights from",
    ),
    "no_tokenizer": (
        lambda f: (f / "tokenizer_2" / "vocab.json").unlink(),
        "tokenizer_2/vocab.json: no such file",
    ),
    "lengths": (settings_of_tokens, "texts have 12 tokens in tokenizer, but 8 in tokenizer_2"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_refused_in_one_line(one, work, capsys, damage):
    change, message = DAMAGES[damage]
    change(one)
    check_refused(one, capsys, message, search=search)
