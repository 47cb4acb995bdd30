"""FLUX.1's folders, from the prompt to the picture, beside the pipelines' own call.

The pipelines are tiny and random, of the forms of dev and of schnell (`tests/models/pipelines.py`).
"""

from __future__ import annotations

import functools
import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxsearch.runs.arguments import parse, resolve_file
from jaxsearch.runs.components import settings_of
from jaxsearch.zoo import entry
from jaxsearch.zoo.scheduler import sized_flow_scheduler
from tests.models.pipelines import flux
from tests.models.published import to_torch
from tests.zoo.pipelines import (
    NOISE,
    PROMPTS,
    check_refused,
    check_sampled,
    check_searched,
    edit,
    sampled,
    search,
    steps_of,
)

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.filterwarnings("ignore:the prompt")  # one of `PROMPTS` is too long

STEPS = 4
MORE = 14
SMALL = {"height": 16, "width": 16, "max_sequence_length": MORE}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each kind's pipeline and folder, made when it is asked for."""
    return functools.cache(
        lambda kind: flux(tmp_path_factory.mktemp("pipeline"), schnell=kind == "schnell")
    )


@pytest.fixture
def one(folders, tmp_path):
    """A copy of dev's folder that a test may damage."""
    return shutil.copytree(folders("dev")[1], tmp_path / "model")


CASES = {
    "dev": ({"guidance_scale": 2.5}, {"guidance": 2.5}),
    "dev, led away": (
        {"guidance_scale": 2.5, "true_cfg_scale": 3.0, "negative_prompt": ["a hat"] * 2},
        {"guidance": 2.5, "true_guidance": 3.0, "negative_prompt": "a hat"},
    ),
    "schnell": ({"guidance_scale": 0.0}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_trajectory_is_that_of_diffusers(folders, case, record_property):
    """Both encoders, network, both kinds of guidance, the folder's steps, a shifted decoder.

    Kills: CLIP's last token for the text's end, or without its normalisation; padding of T5 that is
    not seen; the scale of guidance left out of the negative half; even steps, or the file's shift
    where it hangs on the size; pixels counted for tokens.
    """
    call, settings = CASES[case]
    pipeline, folder = folders(case.split(",")[0])
    tokens = pipeline(
        PROMPTS,
        num_inference_steps=STEPS,
        latents=pipeline._pack_latents(to_torch(NOISE).contiguous(), 2, 4, 8, 8),
        height=16,
        width=16,
        max_sequence_length=MORE,
        output_type="latent",
        **call,
    ).images
    latents, vae = pipeline._unpack_latents(tokens, 16, 16, 2), pipeline.vae
    images = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample

    found = entry(str(folder))
    model = found.load(**SMALL, **settings)
    steps = steps_of(model, found.fitted(SMALL)["schedule"], STEPS)
    assert jnp.allclose(steps.sigma, pipeline.scheduler.sigmas.numpy(), rtol=1e-6)
    cond = model.prompts(PROMPTS).cond
    assert (cond.tokens.shape, cond.pooled.shape) == ((2, MORE, 40), (2, 16))
    check_sampled(model, sampled(model, steps), latents, images, record_property)


# ----------------------------------------------------------------------------------------- settings


def test_settings(folders):
    """Sizes, types, the price of both kinds of guidance; equal networks share one program."""
    load = entry(str(folders("dev")[1])).load
    plain = load(**SMALL)
    assert (plain.denoiser.passes, plain.denoiser.shape) == (1, (8, 8, 4))
    assert plain.prompts(["the cat"] * 2).cond.guidance.tolist() == [3.5, 3.5]
    led = load(**{**SMALL, "width": 24}, true_guidance=2.0, dtype="bfloat16")
    assert (led.denoiser.passes, led.denoiser.shape) == (2, (8, 12, 4))
    assert led.denoiser.params["null"].guidance == 3.5
    leaves = {leaf.dtype.name for leaf in jax.tree.leaves(led.denoiser.params["inner"])}
    assert leaves == {"bfloat16", "float32"}
    assert load(**SMALL, guidance=1.0).denoiser.apply is plain.denoiser.apply
    schnell = entry(str(folders("schnell")[1])).load(**SMALL)
    assert schnell.prompts(["the cat"]).cond.guidance is None


@pytest.mark.parametrize("case", [("dev", 3.5, 28, 512), ("schnell", None, 4, 256)])
def test_defaults(folders, case):
    """Those that were published, for 1024 pixels a side where a latent has eight."""
    name, guidance, num_steps, length = case
    found = entry(str(folders(name)[1]))
    given = {name: one.default for name, one in settings_of(found.load).items()}
    assert (given["guidance"], given["max_sequence_length"]) == (guidance, length)
    assert given["true_guidance"] == 1.0
    at_64 = math.exp(0.5 + 0.65 * (64**2 - 4) / 60) if name == "dev" else 1.0
    assert found.defaults["schedule"] == {
        "name": "shifted", "num_steps": num_steps, "shift": pytest.approx(at_64)
    }  # fmt: skip
    of_files = {"tokenizer_2/tokenizer.json", "text_encoder/model.safetensors"}
    of_files |= {
        f"transformer/diffusion_pytorch_model{end}" for end in (".safetensors.index.json",)
    }
    assert of_files <= set(found.files)
    assert sum("transformer/diffusion_pytorch_model-0" in file for file in found.files) > 1


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("dev", {"height": 18}, "height is 18: it must be a multiple of 4"),
        ("dev", {"guidance": None}, "guidance is null, but the transformer is told a scale"),
        ("dev", {"guidance": -1.0}, "guidance is -1"),
        ("dev", {"true_guidance": math.nan}, "true_guidance is nan"),
        ("dev", {"negative_prompt": "a dog"}, "but true_guidance is 1, which is none: raise true_"),
        ("dev", {"max_sequence_length": 513}, "max_sequence_length is 513"),
        ("schnell", {"guidance": 3.5}, "guidance is 3.5, but the transformer is told none"),
    ],
)
def test_settings_out_of_range(folders, kind, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        entry(str(folders(kind)[1])).load(**settings)
    assert "\n" not in str(caught.value)


DEV = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.30.0.dev0",
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}


def test_the_shift_hangs_on_the_size_where_the_file_says_so():
    of_dev = sized_flow_scheduler(DEV)
    assert [of_dev(256), of_dev(4096)] == pytest.approx([math.exp(0.5), math.exp(1.15)])
    bare = {key: DEV[key] for key in DEV if "image" not in key and not key.endswith("_shift")}
    assert sized_flow_scheduler(bare)(1024) == of_dev(1024)
    schnell = sized_flow_scheduler({**DEV, "shift": 1.0, "use_dynamic_shifting": False})
    assert [schnell(256), schnell(4096)] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "EulerDiscreteScheduler"}, "_class_name is 'EulerDiscreteScheduler'"),
        ({"time_shift_type": "linear"}, "time_shift_type is 'linear': only 'exponential'"),
        ({"max_image_seq_len": 256}, "max_image_seq_len is 256"),
        ({"base_shift": None}, "base_shift is None: it must be a number"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas is True: only False"),
        ({"use_dynamic_shifting": False, "shift": -1.0}, "shift is -1"),
        ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
    ],
)
def test_unsupported_steps_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        sized_flow_scheduler({**DEV, **change})


# -------------------------------------------------------------------------------------- the command

SIZE = ["--model.height", "16", "--model.width", "16"]


@pytest.mark.parametrize("kind", ["dev", "schnell"])
def test_a_folder_is_searched(folders, work, capsys, kind):
    more = ["--searcher", "best_of_n", "--searcher.candidates", "2", *SIZE]
    more += ["--model.true_guidance", "2"] if kind == "dev" else []
    check_searched(folders(kind)[1], ["the cat, twice", "the cat, twice"], capsys, *more)


def test_steps_follow_the_size_that_is_asked_for(folders, tmp_path):
    """On the command line, in a file, and in a run's own config; unless a shift is asked for."""
    folder = folders("dev")[1]
    of_size = entry(str(folder)).fitted({"height": 16, "width": 32})["schedule"]["shift"]
    assert of_size == pytest.approx(math.exp(0.5 + 0.65 * (4 * 8 - 4) / 60))

    def shift(*argv):
        words = ["--model", str(folder), *argv]
        config = parse(words, command="search", description="").config
        (tmp_path / "run.yaml").write_text(config.to_yaml())
        assert resolve_file(tmp_path / "run.yaml").config == config
        return config.schedule.settings.get("shift")

    sized = ["--model.height", "16", "--model.width", "32"]
    assert shift(*sized) == of_size
    assert shift(*sized, "--schedule.num_steps", "3") == of_size
    assert shift(*sized, "--schedule.shift", "2") == 2.0
    assert shift(*sized, "--schedule", "variance_preserving_path") is None
    written = {"model": {"name": str(folder), "height": 16, "width": 32}}
    (tmp_path / "mine.yaml").write_text(json.dumps(written))
    assert shift("--config", str(tmp_path / "mine.yaml")) == of_size
    written["schedule"] = {"shift": 2.5}
    (tmp_path / "mine.yaml").write_text(json.dumps(written))
    assert shift("--config", str(tmp_path / "mine.yaml")) == 2.5


def test_a_wrong_size_is_one_line(folders, work, capsys):
    assert search(folders("dev")[1], "--model.height", "18") == 2
    complaint = capsys.readouterr().err
    assert "height is 18: it must be a multiple of 4" in complaint
    assert complaint.count("\n") == 1


DAMAGES = {
    "part": (
        lambda f: edit(f / "model_index.json", text_encoder_2=[None, None]),
        "model_index.json: text_encoder_2 is None: only 'T5EncoderModel' is supported",
    ),
    "pooled": (
        lambda f: edit(f / "transformer" / "config.json", pooled_projection_dim=12),
        "texts as a whole have 16 features, but the transformer's pooled_projection_dim is 12",
    ),
    "features": (
        lambda f: edit(f / "transformer" / "config.json", joint_attention_dim=16),
        "texts have 40 features, but the transformer's joint_attention_dim is 16",
    ),
    "latents": (
        lambda f: edit(f / "vae" / "config.json", latent_channels=16),
        "the transformer's in_channels / 4 is 4, but the vae's latents have 16 channels",
    ),
    "steps": (
        lambda f: edit(f / "scheduler" / "scheduler_config.json", shift_terminal=0.02),
        "scheduler_config.json: the config's shift_terminal is 0.02: only None is supported",
    ),
    "end": (
        lambda f: edit(f / "text_encoder" / "config.json", eos_token_id=-1),
        "text_encoder/config.json: eos_token_id is -1",
    ),
    "a_file_of_several": (
        lambda f: next(Path(f / "transformer").glob("*-00002-of-*")).unlink(),
        "cannot read weights from",
    ),
    "no_index": (
        lambda f: next(Path(f / "transformer").glob("*.index.json")).write_text("{}"),
        "does not say which file holds which weight",
    ),
    "no_tokenizer": (
        lambda f: (f / "tokenizer_2" / "tokenizer.json").unlink(),
        "tokenizer_2/tokenizer.json: no such file, and spiece.model is not read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_refused_in_one_line(one, work, capsys, damage):
    change, message = DAMAGES[damage]
    change(one)
    check_refused(one, capsys, message)
