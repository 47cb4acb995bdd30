"""PixArt's transformer against `diffusers` at random weights, through the files that it writes."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsearch.models.loading import abstract_module, parameters
from jaxsearch.models.pixart import (
    MaskedText,
    PixArt,
    PixArtConfig,
    load_pixart,
    pixart_config,
    pixart_network,
)
from tests.models.pipelines import PIXART
from tests.models.published import relative, to_torch, written

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

TIMES = np.array([0, 1, 500, 999])
SEEN = np.arange(5)[None] < np.array([[5], [1], [3], [4]])


def theirs(folder, **changes):
    from diffusers import PixArtTransformer2DModel

    return written(PixArtTransformer2DModel(**{**PIXART, **changes}), folder)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return theirs(tmp_path_factory.mktemp("transformer"), norm_eps=0.01)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Without a variance, with places that are not divided, and three heads."""
    changes = {"out_channels": 4, "interpolation_scale": 3, "num_attention_heads": 3}
    folder = tmp_path_factory.mktemp("transformer")
    return theirs(folder, **changes, cross_attention_dim=12, attention_head_dim=4)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def found(folder, height, width, dtype="float32"):
    config, params = load_pixart(folder, dtype=dtype)
    text = MaskedText(jnp.asarray(normal(1, 4, 5, 12)), jnp.asarray(SEEN))
    x, t = jnp.asarray(normal(0, 4, height, width, 4)), jnp.asarray(TIMES, jnp.float32)
    return jax.jit(pixart_network(config, dtype=dtype))(params, x, t, text)


def wanted(reference, height, width):
    return reference(
        to_torch(normal(0, 4, height, width, 4)),
        encoder_hidden_states=torch.as_tensor(normal(1, 4, 5, 12)),
        encoder_attention_mask=torch.as_tensor(SEEN.astype(np.int64)),
        timestep=torch.as_tensor(TIMES),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample[:, :4]


@pytest.mark.parametrize("size", [(6, 10)], ids=str)  # that of the training in `tests/zoo`
def test_computes_as_diffusers_does(usual, size, record_property):
    """At another size than it was trained with.

    Kills: padding that is asked; rows for columns; places not as if they were the trained ones; the
    text's part modulated; shifts, scales and gates in another order; the variance for the noise;
    one epsilon for another.
    """
    result = found(usual[1], *size)
    record_property("relative", relative(result, wanted(usual[0], *size)))
    assert relative(result, wanted(usual[0], *size)) < 2e-5
    assert result.dtype == jnp.float32


def test_other_shapes(other):
    assert relative(found(other[1], 8, 4), wanted(other[0], 8, 4)) < 2e-5


def test_bfloat16_is_near_and_its_gradient_may_compute_again(usual):
    rough, exact = found(usual[1], 8, 8, "bfloat16"), found(usual[1], 8, 8)
    assert rough.dtype == jnp.float32
    assert 1e-4 < relative(rough, exact) < 0.1
    config, params = load_pixart(usual[1])
    text = MaskedText(jnp.asarray(normal(1, 4, 5, 12)), jnp.asarray(SEEN))

    def slope(remat):
        network = pixart_network(config, remat=remat)
        return jax.grad(lambda x: jnp.sum(network(params, x, jnp.zeros(4), text) ** 2))

    x = jnp.asarray(normal(0, 4, 8, 8, 4))
    assert "remat" in str(jax.make_jaxpr(slope(True))(x))
    assert "remat" not in str(jax.make_jaxpr(slope(False))(x))
    with pytest.raises(ValueError, match="dtype is float16"):
        pixart_network(config, dtype=jnp.float16)


def test_the_published_size():
    """As `diffusers` counts them at that size, too."""
    from diffusers import PixArtTransformer2DModel

    module = abstract_module(lambda rngs: PixArt(PixArtConfig(), rngs=rngs))
    number = sum(leaf.size for leaf in jax.tree.leaves(parameters(module)))
    with torch.device("meta"):
        reference = PixArtTransformer2DModel(
            caption_channels=4096, use_additional_conditions=False, interpolation_scale=2
        )
    assert number == sum(weight.numel() for weight in reference.parameters())
    assert number == 610_856_096


# ----------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("proj_out.bias"), "missing: proj_out.bias"),
        (
            lambda t: t.pop("transformer_blocks.1.scale_shift_table"),
            "missing: transformer_blocks.1.scale_shift_table",
        ),
        (lambda t: t.update(extra=t["proj_out.bias"]), "unknown: extra"),
        (
            lambda t: t.update({"scale_shift_table": t["scale_shift_table"][:1]}),
            r"mis-shaped: scale_shift_table \(1, 16\) instead of \(2, 16\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(usual, tmp_path, change, message):
    tensors = load_file(usual[1] / "diffusion_pytorch_model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((usual[1] / "config.json").read_text())
    with pytest.raises(ValueError, match=message) as caught:
        load_pixart(tmp_path)
    assert str(tmp_path) in str(caught.value)


MISTAKES = {
    "class": ({"_class_name": "DiTTransformer2DModel"}, "_class_name is 'DiTTransformer2DModel'"),
    "numbers": (
        {"use_additional_conditions": True},
        "use_additional_conditions is True: only False",
    ),
    "norm": ({"norm_type": "ada_norm_zero"}, "norm_type is 'ada_norm_zero'"),
    "outputs": ({"out_channels": 5}, "out_channels is 5: it must be in_channels, 4, or twice"),
    "patch": ({"patch_size": 3}, "sample_size is 8: it must be a multiple of patch_size, 3"),
    "cross": ({"cross_attention_dim": 7}, "cross_attention_dim is 7: only that of a patch, 16"),
    "heads": ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    "width": ({"attention_head_dim": 3}, "is 6: it must be a multiple of 4"),
    "places": ({"interpolation_scale": 0}, "interpolation_scale is 0"),
    "unknown": ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsupported_entries_are_named(usual, mistake):
    change, message = MISTAKES[mistake]
    entries = json.loads((usual[1] / "config.json").read_text())
    with pytest.raises(ValueError, match=message) as caught:
        pixart_config({**entries, **change})
    assert "\n" not in str(caught.value)


def test_configs():
    """As the first files were written, by another class."""
    early = {
        "_class_name": "Transformer2DModel",
        "_diffusers_version": "0.27.0.dev0",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": 72,
        "attention_type": "default",
        "caption_channels": 4096,
        "cross_attention_dim": 1152,
        "double_self_attention": False,
        "dropout": 0.0,
        "in_channels": 4,
        "interpolation_scale": 2,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_single",
        "num_attention_heads": 16,
        "num_embeds_ada_norm": 1000,
        "num_layers": 28,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "out_channels": 8,
        "patch_size": 2,
        "sample_size": 128,
        "upcast_attention": False,
        "use_additional_conditions": False,
        "use_linear_projection": False,
    }
    assert pixart_config(early) == PixArtConfig()
    assert pixart_config({**early, "interpolation_scale": None}) == PixArtConfig()
    with pytest.raises(ValueError, match="no entry 'use_additional_conditions'"):
        pixart_config({k: v for k, v in early.items() if k != "use_additional_conditions"})
