"""The conditional U-net against `diffusers` at random weights, through the files that it writes."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsearch.core.process import edm, variance_preserving
from jaxsearch.models.epsilon import epsilon_denoiser, v_denoiser
from jaxsearch.models.loading import abstract_module, parameters
from jaxsearch.models.unet2d_condition import (
    SizedText,
    UNet2DCondition,
    UNetConfig,
    load_unet,
    unet_config,
    unet_network,
)
from tests.models.published import relative, to_torch, written

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

TINY = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_eps": 0.01,  # large, so that it shows where it stands
}
SIZED = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 48 + 5,
}
KINDS = {
    "one": {},
    "two": {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
    # Three resolutions and two layers, so that what is kept on the way down has several widths.
    "deep": {
        "block_out_channels": (8, 12, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 2,
        "attention_head_dim": (2, 3, 4),
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    },
    "xl": {
        "block_out_channels": (8, 12, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 3),
        "use_linear_projection": True,
        "attention_head_dim": (2, 3, 4),
        **SIZED,
    },
}
XL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "num_heads": (5, 10, 20),
    "down_attends": (False, True, True),
    "up_attends": (True, True, False),
    "transformer_layers": (1, 2, 10),
    "cross_attention_dim": 2048,
    "addition_time_embed_dim": 256,
    "pooled_features": 1280,
}
TIMES = np.array([0, 1, 500, 999])
VP = variance_preserving(beta_start=0.00085, beta_end=0.012, shape="scaled_linear")


def theirs(folder, **changes):
    from diffusers import UNet2DConditionModel

    return written(UNet2DConditionModel(**{**TINY, **changes}), folder)


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """The reference, and the folder that it wrote."""
    return theirs(tmp_path_factory.mktemp("unet"), **KINDS[request.param])


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return theirs(tmp_path_factory.mktemp("unet"))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs(height: int = 6, width: int = 4):
    return normal(0, 4, height, width, 4), TIMES, normal(1, 4, 5, 12)


def given(x, times, text):
    return jnp.asarray(x), jnp.asarray(times, jnp.float32), jnp.asarray(text)


POOLED = normal(5, 4, 5)
NUMBERS = np.array([[64, 48, 0, 16, 48, 32]] * 3 + [[1024, 768, 1, 2, 512, 512]], np.float32)


def told(config, text):
    """What a network is told: the text, and sizes if it wants them."""
    return SizedText(text, POOLED, NUMBERS) if config.pooled_features else text


def ask(reference, x, times, text):
    added = {"text_embeds": torch.as_tensor(POOLED), "time_ids": torch.as_tensor(NUMBERS)}
    return reference(
        to_torch(x), torch.as_tensor(times), torch.as_tensor(text), added_cond_kwargs=added
    ).sample


# ----------------------------------------------------------------------------------------- network


@pytest.mark.parametrize("size", [(7, 9)], ids=str)  # others in `tests/zoo`
def test_computes_as_diffusers_does(pair, size, record_property):
    """At several times, and at sides that are odd on the way down.

    Kills: the number of heads taken for their size; the text not asked; values and gates of a
    perceptron exchanged; a skip taken in another order; one epsilon for another; sines before
    cosines; sides rounded down; sizes and the text as a whole exchanged; the depths of
    transformers in the order of the way down on the way up.
    """
    reference, folder = pair
    config, params = load_unet(folder)
    x, t, text = given(*inputs(*size))
    found = jax.jit(unet_network(config))(params, x, t, told(config, text))
    wanted = ask(reference, *inputs(*size))
    record_property("relative", relative(found, wanted))
    assert relative(found, wanted) < 2e-5
    assert found.dtype == jnp.float32


def test_the_text_is_asked(usual):
    """Each row its own, and its tokens in any order: they stand nowhere but in their features."""
    config, params = load_unet(usual[1])
    network = jax.jit(unet_network(config))
    x, t, text = given(*inputs())
    first = network(params, x, t, text)
    np.testing.assert_allclose(network(params, x, t, text[:, ::-1]), first, atol=1e-5)
    other = network(params, x, t, text.at[1].set(0.0))
    changed = np.max(np.abs(other - first), axis=(1, 2, 3))
    np.testing.assert_array_equal(changed[[0, 2, 3]], 0.0)
    assert changed[1] > 0.01


def test_bfloat16_is_near_and_its_gradient_may_compute_again(usual):
    config, params = load_unet(usual[1])
    args = given(*inputs())
    exact = jax.jit(unet_network(config))(params, *args)
    in_half = jax.jit(unet_network(config, dtype=jnp.bfloat16))
    rough = in_half(params, *args)
    assert rough.dtype == jnp.float32
    assert 1e-4 < relative(rough, exact) < 0.05
    halves = load_unet(usual[1], dtype=jnp.bfloat16)[1]
    assert halves["conv_in"]["kernel"].dtype == jnp.bfloat16
    assert halves["conv_norm_out"]["scale"].dtype == jnp.float32
    assert relative(in_half(halves, *args), exact) < 0.1

    def slope(remat):
        network = unet_network(config, remat=remat)
        return jax.jit(jax.grad(lambda x: jnp.sum(network(params, x, *args[1:]) ** 2)))

    np.testing.assert_allclose(slope(True)(args[0]), slope(False)(args[0]), rtol=1e-3, atol=1e-4)
    assert "remat" in str(jax.make_jaxpr(slope(True))(args[0]))
    assert "remat" not in str(jax.make_jaxpr(slope(False))(args[0]))
    with pytest.raises(ValueError, match="dtype is float16"):
        unet_network(config, dtype=jnp.float16)


def test_the_same_network_is_the_same_function(usual):
    config, again = load_unet(usual[1])[0], load_unet(usual[1])[0]
    assert unet_network(config) is unet_network(again, dtype="float32")
    assert unet_network(config) is not unet_network(config, remat=True)


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({}, 859_520_964),  # Stable Diffusion 1
        ({"cross_attention_dim": 1024, "num_heads": (5, 10, 20, 20)}, 865_910_724),  # 2
        (XL, 2_567_463_684),
    ],
)
def test_published_sizes(changes, number):
    config = UNetConfig(**changes)
    whole = parameters(abstract_module(lambda rngs: UNet2DCondition(config, rngs=rngs)))
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == number


# ----------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv_in.bias"), "missing: conv_in.bias"),
        (
            lambda t: t.update({"class_embedding.weight": t["conv_in.bias"]}),
            "unknown: class_embedding.weight",
        ),
        (
            lambda t: t.update({"conv_in.weight": t["conv_in.weight"][:, :3]}),
            r"mis-shaped: conv_in.weight \(8, 3, 3, 3\) instead of \(8, 4, 3, 3\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(usual, tmp_path, change, message):
    tensors = load_file(usual[1] / "diffusion_pytorch_model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((usual[1] / "config.json").read_text())
    with pytest.raises(ValueError, match=message) as caught:
        load_unet(tmp_path)
    assert str(tmp_path) in str(caught.value)


def entries(usual) -> dict:
    return json.loads((usual[1] / "config.json").read_text())


MISTAKES = {
    "class": ({"_class_name": "UNet2DModel"}, "_class_name is 'UNet2DModel'"),
    "down": (
        {"down_block_types": ["CrossAttnDownBlock2D", "AttnDownBlock2D"]},
        "down_block_types has 'AttnDownBlock2D': only 'CrossAttnDownBlock2D' or 'DownBlock2D' is",
    ),
    "nested": ({"down_block_types": [["DownBlock2D"]]}, r"down_block_types has \['DownBlock2D'\]"),
    "endless": ({"layers_per_block": 10**6}, "layers_per_block is 1000000: it must be"),
    "up": ({"up_block_types": "UpBlock2D"}, "up_block_types is 'UpBlock2D': it must be a list"),
    "few": ({"up_block_types": ["UpBlock2D"]}, r"up_attends is \(False,\): it must have one entry"),
    "middle": ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type is 'UNetMidBlock2D'"),
    "deeper": ({"transformer_layers_per_block": [1, [2]]}, r"entry of transformer_layers is \[2\]"),
    "depths": (
        {"transformer_layers_per_block": [1]},
        r"transformer_layers is \(1,\): it must have",
    ),
    "added": ({"addition_embed_type": "text"}, "addition_embed_type is 'text': only None or"),
    "sizes": ({"addition_embed_type": "text_time"}, "config's addition_time_embed_dim is None"),
    "no_sizes": ({"addition_time_embed_dim": 8}, "addition_time_embed_dim is 8: only None is"),
    "pooled": (
        {**SIZED, "projection_class_embeddings_input_dim": 48},
        "projection_class_embeddings_input_dim is 48: it must be more than 6 times",
    ),
    "odd": ({**SIZED, "addition_time_embed_dim": 5}, "addition_time_embed_dim is 5: it must be"),
    "outputs": ({"out_channels": 8}, "out_channels is 8: only in_channels, 4, is supported"),
    "heads": ({"attention_head_dim": 3}, "num_heads has 3, which does not divide"),
    "no_heads": ({"attention_head_dim": [2, 0]}, "an entry of num_heads is 0"),
    "head_list": ({"attention_head_dim": [2]}, r"num_heads is \(2,\): it must have one entry"),
    "groups": ({"norm_num_groups": 3}, "norm_num_groups has 3, which does not divide"),
    "no_groups": ({"norm_num_groups": None}, "norm_num_groups is None"),
    "widths": ({"block_out_channels": 8}, "block_out_channels is 8: it must be a list"),
    "epsilon": ({"norm_eps": 0.0}, "norm_eps is 0.0"),
    "shift": ({"freq_shift": 2}, "freq_shift is 2: it must be 0 or 1"),
    "flip": ({"flip_sin_to_cos": 1}, "flip_sin_to_cos is 1: it must be true or false"),
    "text": ({"cross_attention_dim": [12, 12]}, r"cross_attention_dim is \[12, 12\]"),
    "layers": ({"layers_per_block": [1, 1]}, r"layers_per_block is \[1, 1\]"),
    "oblong": ({"sample_size": [8, 8]}, r"sample_size is \[8, 8\]"),
    "only": ({"only_cross_attention": True}, "only_cross_attention is True: only False"),
    "unknown": ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsupported_entries_are_named(usual, mistake):
    change, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        unet_config({**entries(usual), **change})
    assert "\n" not in str(caught.value)


def test_configs(usual):
    wanted = UNetConfig(
        sample_size=8,
        block_out_channels=(8, 16),
        num_heads=(4, 4),
        down_attends=(True, False),
        up_attends=(False, True),
        layers_per_block=1,
        transformer_layers=(1, 1),
        cross_attention_dim=12,
        norm_num_groups=4,
        norm_eps=0.01,
    )
    assert load_unet(usual[1])[0] == wanted
    # What the files of 2022 say, and no more.
    early = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    }
    assert unet_config(early) == UNetConfig()
    # Those of 2023, of the larger one.
    larger = {
        **early,
        "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "class_embed_type": None,
        "conv_in_kernel": 3,
        "cross_attention_dim": 2048,
        "cross_attention_norm": None,
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "mid_block_only_cross_attention": None,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "projection_class_embeddings_input_dim": 2816,
        "resnet_time_scale_shift": "default",
        "sample_size": 128,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "upcast_attention": None,
        "use_linear_projection": True,
    }
    assert unet_config(larger) == UNetConfig(**XL)
    with pytest.raises(ValueError, match="no entry 'layers_per_block'"):
        unet_config({k: v for k, v in early.items() if k != "layers_per_block"})
    with pytest.raises(ValueError, match="the first must be even"):
        UNetConfig(block_out_channels=(9,), num_heads=(3,), down_attends=(True,),
                   up_attends=(True,), transformer_layers=(1,), norm_num_groups=3)  # fmt: skip


# -------------------------------------------------------------------------------------- predictions


def test_denoisers_read_what_was_predicted():
    """Of a known pair, noise and `v` say the same; one taken for the other does not.

    Kills: `v` read as noise; a sign of it turned round.
    """
    times = np.array([0.0, 250.5, 999.0])
    clean, noise = normal(3, 3, 2, 2, 4), normal(4, 3, 2, 2, 4)
    alpha, sigma = (f(times)[:, None, None, None] for f in (VP.alpha, VP.sigma))
    x = (alpha * clean + sigma * noise).astype(np.float32)
    outputs = {epsilon_denoiser: noise, v_denoiser: alpha * noise - sigma * clean}
    for make, output in outputs.items():
        answer = jnp.asarray(output, jnp.float32)
        denoiser = make(lambda p, x, t, c: p, answer, shape=(2, 2, 4), process=VP)
        found = denoiser(jnp.asarray(x), jnp.asarray(times, jnp.float32), None)
        np.testing.assert_allclose(found.x0, clean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found.eps, noise, rtol=1e-3, atol=1e-4)
        assert (denoiser.process, denoiser.shape) == (VP, (2, 2, 4))
    with pytest.raises(ValueError, match="the edm process has no training steps"):
        v_denoiser(lambda p, x, t, c: x, (), shape=(1,), process=edm())
