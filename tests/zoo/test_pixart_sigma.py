"""PixArt-Sigma's folders, from the prompt to the picture, beside the pipeline's own call.

The pipeline is tiny and random (`tests/models/pipelines.py`).
"""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import pytest

from jaxsearch.models.placing import shapes_alone
from jaxsearch.runs.arguments import parse
from jaxsearch.runs.build import build
from jaxsearch.zoo import entry, t5_texts
from tests.models.pipelines import pixart_sigma
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
LENGTH = 14


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The pipeline and its folder."""
    return pixart_sigma(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def one(made, tmp_path):
    """A copy of the folder that a test may damage."""
    return shutil.copytree(made[1], tmp_path / "model")


def test_a_trajectory_is_that_of_diffusers(made, record_property):
    """Prompts of two lengths, negative prompt, mask, network, guidance, steps, decoder: together.

    Kills: padding that is asked; the negative prompt's mask for the prompt's; capitals; spaces
    around a text; the end lost where a text is too long.
    """
    pipeline, folder = made
    latents = pipeline(
        PROMPTS,
        negative_prompt=NEGATIVE,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=to_torch(NOISE),
        height=16,
        width=16,
        use_resolution_binning=False,
        clean_caption=False,
        max_sequence_length=LENGTH,
        output_type="latent",
    ).images
    images = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample

    found = entry(str(folder))
    model = found.load(guidance=3.0, negative_prompt=NEGATIVE, max_sequence_length=LENGTH)
    assert found.defaults["schedule"]["name"] == "trained_steps"
    steps = steps_of(model, found.defaults["schedule"], STEPS)
    cond = model.prompts(PROMPTS).cond
    assert cond.seen.tolist()[1] == [True] * LENGTH
    assert 0 < int(cond.seen[0].sum()) < LENGTH
    check_sampled(model, sampled(model, steps), latents, images, record_property)


def test_settings(made):
    """Sizes, types and the price of guidance."""
    found = entry(str(made[1]))
    load = found.load
    assert load(guidance=0.0, max_sequence_length=8).denoiser.passes == 1
    oblong = load(height=12, width=24, max_sequence_length=8, dtype="bfloat16")
    assert (oblong.denoiser.passes, oblong.denoiser.shape) == (2, (6, 12, 4))
    cond = oblong.prompts(["the cat"]).cond
    assert (cond.tokens.shape, cond.tokens.dtype) == ((1, 8, 12), jnp.float32)
    leaves = {leaf.dtype.name for leaf in jax.tree.leaves(oblong.denoiser.params["inner"])}
    assert leaves == {"bfloat16", "float32"}
    assert found.defaults["schedule"]["num_steps"] == 20
    assert {"tokenizer/tokenizer.json", "text_encoder/model.safetensors"} <= set(found.files)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 18}, "height is 18: it must be a multiple of 4"),
        ({"guidance": 1.0, "negative_prompt": "a dog"}, "negative_prompt is .a dog., but guidance"),
        ({"guidance": float("nan")}, "guidance scale is nan"),
        ({"max_sequence_length": 1}, "max_sequence_length is 1"),
    ],
)
def test_settings_out_of_range(made, settings, message):
    with pytest.raises(ValueError, match=message):
        entry(str(made[1])).load(**settings)


# -------------------------------------------------------------------------------------- the command


def test_a_folder_is_searched(made, work, capsys):
    more = ["--searcher", "best_of_n", "--searcher.candidates", "2"]
    check_searched(made[1], ["the cat, twice", "hat", "the cat, twice"], capsys, *more)


def test_a_run_reads_its_encoder_once(one, monkeypatch):
    """Kills: T5 read for what guidance leads away from, and again for the prompts."""
    reads, load = [], t5_texts.load_t5_encoder

    def counted(folder, **settings):
        reads.extend([] if shapes_alone() else [folder])
        return load(folder, **settings)

    monkeypatch.setattr(t5_texts, "load_t5_encoder", counted)
    arguments = ["--model", str(one), "--prompts", "the cat", "hat", "--schedule.num_steps", "2"]
    build(parse(arguments, command="search", description="").config)
    assert len(reads) == 1


DAMAGES = {
    "part": (
        lambda f: edit(f / "model_index.json", text_encoder=["transformers", "CLIPTextModel"]),
        "model_index.json: text_encoder is 'CLIPTextModel': only 'T5EncoderModel' is supported",
    ),
    "features": (
        lambda f: edit(f / "transformer" / "config.json", caption_channels=16),
        "texts have 12 features, but the transformer's caption_channels is 16",
    ),
    "latents": (
        lambda f: edit(f / "vae" / "config.json", latent_channels=16),
        "the transformer's in_channels is 4, but the vae's latents have 16 channels",
    ),
    "no_weights": (
        lambda f: (f / "text_encoder" / "model.safetensors").unlink(),
        "cannot read weights from",
    ),
    "no_tokenizer": (
        lambda f: (f / "tokenizer" / "tokenizer.json").unlink(),
        "tokenizer/tokenizer.json: no such file, and spiece.model is not read",
    ),
    "vocabulary": (
        lambda f: edit(f / "text_encoder" / "config.json", vocab_size=3),
        "shared.weight",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_refused_in_one_line(one, work, capsys, damage):
    change, message = DAMAGES[damage]
    change(one)
    check_refused(one, capsys, message)
