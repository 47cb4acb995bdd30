"""FLUX.1's transformer against `diffusers` at random weights, through its files."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsearch.models.flux import (
    Flux,
    GuidedText,
    flux_config,
    flux_network,
    load_flux,
    packed,
    unpacked,
)
from jaxsearch.models.loading import abstract_module, parameters
from tests.models.pipelines import FLUX
from tests.models.published import relative, written

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

TIMES = np.array([0.0, 3.5, 500.0, 1000.0], np.float32)
# A thousandfold they are angles, of which float32 has few digits: more would compare roundings.
SCALES = np.array([1.0, 3.5, 0.0, 2.0], np.float32)
KINDS = {"dev": {}, "schnell": {"guidance_embeds": False, "num_layers": 1, "num_single_layers": 3}}


def theirs(folder, **changes):
    from diffusers import FluxTransformer2DModel

    return written(FluxTransformer2DModel(**{**FLUX, **changes}), folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each kind's network and folder, made when it is asked for."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = theirs(tmp_path_factory.mktemp("transformer"), **KINDS[kind])
        return made[kind]

    return of


@pytest.fixture
def dev(folders):
    return folders("dev")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def text(guided=True):
    scales = jnp.asarray(SCALES) if guided else None
    return GuidedText(jnp.asarray(normal(1, 4, 5, 40)), jnp.asarray(normal(2, 4, 16)), scales)


def found(folder, height, width, dtype="float32"):
    config, params = load_flux(folder, dtype=dtype)
    x = jnp.asarray(normal(0, 4, height, width, 4))
    network = jax.jit(flux_network(config, dtype=dtype))
    return network(params, x, jnp.asarray(TIMES), text(config.guidance_embeds))


def wanted(reference, height, width, guided):
    """Packed and unpacked by the pipeline's own functions."""
    from diffusers import FluxPipeline

    x = torch.from_numpy(normal(0, 4, height, width, 4)).permute(0, 3, 1, 2).contiguous()
    places = FluxPipeline._prepare_latent_image_ids(4, height // 2, width // 2, "cpu", x.dtype)
    tokens = reference(
        FluxPipeline._pack_latents(x, 4, 4, height, width),
        encoder_hidden_states=torch.from_numpy(normal(1, 4, 5, 40)),
        pooled_projections=torch.from_numpy(normal(2, 4, 16)),
        timestep=torch.from_numpy(TIMES / 1000),
        guidance=torch.from_numpy(SCALES) if guided else None,
        img_ids=places,
        txt_ids=torch.zeros(5, 3),
    ).sample
    return FluxPipeline._unpack_latents(tokens, height, width, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_computes_as_diffusers_does(folders, kind, record_property):
    """At an oblong size.

    Kills: rows for columns, in places and in squares; turns the other way, or halves of channels
    for neighbours; the text turned; the scale of guidance not a thousandfold, or left out; the
    text's tokens read at the end; shift and scale exchanged in the last layer; queries and keys not
    normalised; the perceptron before the attention where both are one layer's input.
    """
    reference, folder = folders(kind)
    result = found(folder, 6, 10)
    exact = wanted(reference, 6, 10, kind == "dev")
    record_property("relative", relative(result, exact))
    assert relative(result, exact) < 2e-5
    assert result.dtype == jnp.float32


def test_tokens_are_squares_of_latents():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    tokens = packed(x)
    assert tokens.shape == (2, 6, 12)
    # Of each channel its square of places, row by row.
    np.testing.assert_array_equal(tokens[1, 4].reshape(3, 2, 2), x[1, 2:, 2:4].transpose(2, 0, 1))
    np.testing.assert_array_equal(unpacked(tokens, 2, 3), x)


def test_bfloat16_is_near_and_its_gradient_may_compute_again(dev):
    rough, exact = found(dev[1], 8, 8, "bfloat16"), found(dev[1], 8, 8)
    assert rough.dtype == jnp.float32
    assert 1e-4 < relative(rough, exact) < 0.1
    config, params = load_flux(dev[1])

    def slope(remat):
        network = flux_network(config, remat=remat)
        return jax.grad(lambda x: jnp.sum(network(params, x, jnp.zeros(4), text()) ** 2))

    x = jnp.asarray(normal(0, 4, 8, 8, 4))
    assert "remat" in str(jax.make_jaxpr(slope(True))(x))
    assert "remat" not in str(jax.make_jaxpr(slope(False))(x))
    with pytest.raises(ValueError, match="dtype is float16"):
        flux_network(config, dtype=jnp.float16)


@pytest.mark.parametrize(
    ("guided", "number"), [(True, 11_901_408_320), (False, 11_891_178_560)], ids=str
)
def test_published_sizes(guided, number):
    """As `diffusers` counts them at that size, too; its defaults are those of the files."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        reference = FluxTransformer2DModel(guidance_embeds=guided)
    config = flux_config(json.loads(reference.to_json_string()))
    whole = parameters(abstract_module(lambda rngs: Flux(config, rngs=rngs)))
    counted = sum(leaf.size for leaf in jax.tree.leaves(whole))
    assert counted == sum(weight.numel() for weight in reference.parameters())
    assert counted == number


def test_a_scale_is_told_to_those_that_follow_one(folders):
    for kind, message in (("dev", "told no guidance, but"), ("schnell", "told a guidance, though")):
        config, params = load_flux(folders(kind)[1])
        x, said = jnp.zeros((4, 4, 4, 4)), text(guided=kind != "dev")
        with pytest.raises(ValueError, match=message):
            flux_network(config)(params, x, jnp.asarray(TIMES), said)


# ----------------------------------------------------------------------------------------- weights

QUERY = "single_transformer_blocks.1.attn.norm_q.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(QUERY), f"missing: {QUERY}"),
        (
            lambda t: t.update({QUERY.replace(".1.", ".2."): t[QUERY]}),
            "unknown: single_transformer_blocks.2.attn.norm_q.weight",
        ),
        (
            lambda t: t.update({QUERY: t[QUERY][:4]}),
            r"mis-shaped: single_transformer_blocks.1.attn.norm_q.weight \(4,\) instead of \(16,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(dev, tmp_path, change, message):
    tensors = load_file(dev[1] / "diffusion_pytorch_model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text((dev[1] / "config.json").read_text())
    with pytest.raises(ValueError, match=message) as caught:
        load_flux(tmp_path)
    assert str(tmp_path) in str(caught.value)


MISTAKES = {
    "class": ({"_class_name": "SD3Transformer2DModel"}, "_class_name is 'SD3Transformer2DModel'"),
    "outputs": ({"out_channels": 64}, "out_channels is 64: only 16 is supported"),
    "patch": ({"patch_size": 2}, "patch_size is 2: only 1 is supported"),
    "channels": ({"in_channels": 18}, "in_channels is 18: it must be a multiple of 4"),
    "two_axes": ({"axes_dims_rope": [8, 8]}, r"axes_dims_rope is \(8, 8\): it must be three"),
    "odd": ({"axes_dims_rope": [2, 5, 9]}, "an entry of axes_dims_rope is 5: it must be even"),
    "sum": ({"axes_dims_rope": [2, 2, 2]}, "its sum must be attention_head_dim, 16"),
    "axes": ({"axes_dims_rope": 16}, "axes_dims_rope is 16: it must be a list"),
    "heads": ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    "blocks": ({"num_single_layers": 101}, "num_single_layers is 101"),
    "guidance": ({"guidance_embeds": None}, "guidance_embeds is None: only True or False"),
    "unknown": ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsupported_entries_are_named(dev, mistake):
    change, message = MISTAKES[mistake]
    entries = json.loads((dev[1] / "config.json").read_text())
    with pytest.raises(ValueError, match=message) as caught:
        flux_config({**entries, **change})
    assert "\n" not in str(caught.value)


def test_early_files_do_not_say_the_axes(dev):
    entries = json.loads((dev[1] / "config.json").read_text())
    del entries["axes_dims_rope"], entries["out_channels"]
    assert flux_config({**entries, "attention_head_dim": 128}).axes_dims_rope == (16, 56, 56)
    with pytest.raises(ValueError, match="no entry 'guidance_embeds'"):
        flux_config({key: entries[key] for key in entries if key != "guidance_embeds"})
