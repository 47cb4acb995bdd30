"""The autoencoder against `diffusers` at random weights, through the files that it writes."""

from __future__ import annotations

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsearch.models.autoencoder_kl import (
    AutoencoderConfig,
    AutoencoderKL,
    autoencoder_config,
    autoencoder_decoder,
    encoder_network,
    load_autoencoder,
)
from jaxsearch.models.loading import abstract_module, parameters
from tests.jitted import called
from tests.models.published import relative, to_torch, written

pytest.importorskip("torch")
pytest.importorskip("diffusers")

TINY = {
    "block_out_channels": (8, 12, 16),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}
KINDS = {
    "stable_diffusion": {},
    # As FLUX and Stable Diffusion 3 have it.
    "shifted": {
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "latent_channels": 6,
    },
    "plain": {
        "mid_block_add_attention": False,
        "block_out_channels": (8,),
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
        "layers_per_block": 2,
    },
}


def theirs(tmp_path_factory, **changes):
    from diffusers import AutoencoderKL as Reference

    return written(Reference(**{**TINY, **changes}), tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """The reference, and the folder that it wrote."""
    return theirs(tmp_path_factory, **KINDS[request.param])


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return theirs(tmp_path_factory)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_encodes_as_diffusers_does(pair, record_property):
    """Odd sides too: 27 -> 13 -> 6 and 22 -> 11 -> 5.

    Kills: zeros added on both sides of a halving; mean and variance exchanged; attention left out.
    """
    reference, folder = pair
    images = np.tanh(normal(0, 2, 27, 22, 3))
    config, params = load_autoencoder(folder, with_encoder=True)
    mean, log_variance = jax.jit(encoder_network(config))(params, jnp.asarray(images))
    wanted = reference.encode(to_torch(images)).latent_dist
    for found, theirs in ((mean, wanted.mean), (log_variance, wanted.logvar)):
        record_property("relative", relative(found, theirs))
        assert relative(found, theirs) < 2e-5
    assert (mean.dtype, log_variance.dtype) == (jnp.float32, jnp.float32)


def test_variances_stay_within_bounds(usual):
    """As the reference bounds their logarithms, by e^-30 and e^20.

    Kills: the bounds left out, which for a long time nobody would see.
    """
    reference, folder = usual
    config, params = load_autoencoder(folder, with_encoder=True)
    params["quant_conv"]["kernel"] *= 1000.0
    with_large = copy.deepcopy(reference)
    with_large.quant_conv.weight.data *= 1000.0
    images = np.tanh(normal(0, 2, 8, 8, 3))
    found = jax.jit(encoder_network(config))(params, jnp.asarray(images))[1]
    assert relative(found, with_large.encode(to_torch(images)).latent_dist.logvar) < 1e-4
    assert (float(found.min()), float(found.max())) == (-30.0, 20.0)


def test_decodes_as_diffusers_does(pair, record_property):
    """Latents are unscaled, then decoded; images are in [0, 1] and clipped.

    Kills: the shift taken off before the division; the clip left out; rows and columns exchanged.
    """
    reference, folder = pair
    settings = reference.config
    latents = normal(1, 2, 5, 3, settings.latent_channels)
    config, params = load_autoencoder(folder)
    found = called(autoencoder_decoder(config, params), jnp.asarray(latents))
    unscaled = to_torch(latents) / settings.scaling_factor + (settings.shift_factor or 0.0)
    decoded = reference.decode(unscaled).sample
    inside = float((decoded.abs() < 1.0).float().mean())
    assert 0.3 < inside < 1.0  # so there is something to clip, and something to compare
    record_property("relative", relative(found, (decoded / 2 + 0.5).clamp(0, 1)))
    assert relative(found, (decoded / 2 + 0.5).clamp(0, 1)) < 2e-5
    assert found.dtype == jnp.float32


def test_decoder_alone_or_within_the_whole(usual):
    """Loading the encoder as well changes no image, and puts no weight into the decoder."""
    config, whole = load_autoencoder(usual[1], with_encoder=True)
    half = load_autoencoder(usual[1])[1]
    assert set(whole) - set(half) == {"encoder", "quant_conv"}
    one, two = (autoencoder_decoder(config, params) for params in (whole, half))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    latents = jnp.asarray(normal(2, 1, 3, 3, 4))
    np.testing.assert_array_equal(called(one, latents), called(two, latents))


def test_equal_configs_share_one_program(usual):
    """Weights are arguments of the program, and equal settings give the same function."""
    traces = []

    @jax.jit
    def run(decoder, latents):
        traces.append(None)
        return decoder(latents)

    config, params = load_autoencoder(usual[1])
    latents = jnp.asarray(normal(2, 1, 3, 3, 4))
    first = run(autoencoder_decoder(config, params), latents)
    halved = jax.tree.map(lambda leaf: leaf / 2, params)
    other = run(autoencoder_decoder(autoencoder_config(entries(usual)), halved), latents)
    assert len(traces) == 1
    assert not np.allclose(first, other)
    run(autoencoder_decoder(config, params, dtype=jnp.bfloat16), latents)
    assert len(traces) == 2


def test_bfloat16_is_near(usual):
    config, params = load_autoencoder(usual[1])
    latents = jnp.asarray(normal(3, 2, 4, 4, 4)) * 0.2
    exact = called(autoencoder_decoder(config, params), latents)
    rough = called(autoencoder_decoder(config, params, dtype=jnp.bfloat16), latents)
    assert rough.dtype == jnp.float32
    assert 1e-4 < relative(rough, exact) < 0.1
    with pytest.raises(ValueError, match="dtype is float16: it must be float32 or bfloat16"):
        autoencoder_decoder(config, params, dtype=jnp.float16)


def test_a_gradient_may_compute_every_resolution_again(usual):
    config, params = load_autoencoder(usual[1])
    latents = jnp.asarray(normal(3, 1, 2, 2, 4))

    def slope(remat):
        decoder = autoencoder_decoder(config, params, remat=remat)
        return jax.jit(jax.grad(lambda latents: jnp.sum(decoder(latents) ** 2)))

    np.testing.assert_allclose(slope(True)(latents), slope(False)(latents), rtol=1e-4, atol=1e-5)
    again, kept = (str(jax.make_jaxpr(slope(remat))(latents)) for remat in (True, False))
    assert again.count("remat") == 1 + len(config.block_out_channels)
    assert "remat" not in kept


def test_former_names_of_attention(usual, tmp_path):
    """Files of 2022 (`sd-vae-ft-mse`) name the layers of attention otherwise.

    Kills: key and value exchanged; only the decoder's layers renamed.
    """
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for key, value in load_file(weights(usual)).items():
        for new, old in former.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        tensors[key] = value
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in tensors
    early = {name: v for name, v in entries(usual).items() if name not in ("scaling_factor",)}
    write(tmp_path, tensors, early)
    now, then = (load_autoencoder(f, with_encoder=True) for f in (usual[1], tmp_path))
    assert now[0] == then[0]
    jax.tree.map(np.testing.assert_array_equal, now[1], then[1])

    tensors["decoder.mid_block.attentions.0.to_k.bias"] = np.zeros(16, np.float32)
    write(tmp_path, tensors, early)
    with pytest.raises(ValueError, match=r"two tensors stand for decoder.*to_k.bias"):
        load_autoencoder(tmp_path)


def weights(pair):
    return pair[1] / "diffusion_pytorch_model.safetensors"


def entries(pair) -> dict:
    return json.loads((pair[1] / "config.json").read_text())


def write(folder, tensors, config) -> None:
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("decoder.conv_in.bias"), "missing: decoder.conv_in.bias"),
        (lambda t: t.pop("post_quant_conv.weight"), "missing: post_quant_conv.weight"),
        (
            lambda t: t.update({"decoder.conv_mid.bias": t["decoder.conv_in.bias"]}),
            "unknown: decoder.conv_mid.bias",
        ),
        (
            lambda t: t.update({"decoder.conv_out.weight": t["decoder.conv_in.weight"]}),
            r"mis-shaped: decoder.conv_out.weight \(16, 4, 3, 3\) instead of \(3, 8, 3, 3\)",
        ),
        (
            lambda t: t.pop("decoder.mid_block.attentions.0.to_q.bias"),
            "missing: decoder.mid_block.attentions.0.to_q.bias",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(usual, tmp_path, change, message):
    tensors = load_file(weights(usual))
    change(tensors)
    write(tmp_path, tensors, entries(usual))
    with pytest.raises(ValueError, match=message) as caught:
        load_autoencoder(tmp_path)
    assert "diffusion_pytorch_model.safetensors" in str(caught.value)


MISTAKES = {
    "class": ({"_class_name": "AutoencoderTiny"}, "_class_name is 'AutoencoderTiny'"),
    "activation": ({"act_fn": "relu"}, "act_fn is 'relu': only 'silu' is supported"),
    "grey": ({"in_channels": 1}, "in_channels is 1: only 3"),
    "statistics": ({"latents_mean": [0.0]}, r"latents_mean is \[0.0\]: only None"),
    "flag": ({"use_quant_conv": 1}, "use_quant_conv is 1: only True or False"),
    "blocks": ({"up_block_types": ["UpDecoderBlock2D"]}, "up_block_types is .*once for each"),
    "attention": (
        {"down_block_types": ["AttnDownEncoderBlock2D"] * 3},
        "down_block_types is .*AttnDownEncoderBlock2D.* only 'DownEncoderBlock2D'",
    ),
    "unknown": ({"tiles": 3}, r"entry 'tiles' \(it is 3\) is not known"),
    "groups": ({"norm_num_groups": 5}, r"norm_num_groups is 5, which does not divide"),
    "layers": ({"layers_per_block": "two"}, "layers_per_block is 'two'"),
    "scale": ({"scaling_factor": 0.0}, "scaling_factor is 0.0"),
    "scale_type": ({"scaling_factor": "1"}, "scaling_factor is '1': it must be a number"),
    "shift": ({"shift_factor": [0.1]}, r"shift_factor is \[0.1\]: it must be a number"),
    "no_blocks": ({"up_block_types": None}, "up_block_types is None: it must be a list"),
    "channels": ({"block_out_channels": 8}, "block_out_channels is 8: it must be a list"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsupported_entries_are_named(usual, mistake):
    """In one line that names entry and value.

    Kills: each check removed.
    """
    change, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        autoencoder_config({**entries(usual), **change})
    assert "\n" not in str(caught.value)


def test_missing_entries_and_files_are_named(usual, tmp_path):
    with pytest.raises(ValueError, match="no entry 'latent_channels'"):
        autoencoder_config({k: v for k, v in entries(usual).items() if k != "latent_channels"})
    with pytest.raises(ValueError, match=r"cannot read .*config.json: no such file"):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="it holds no entries"):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(entries(usual)))
    with pytest.raises(ValueError, match=r"cannot read weights from .*safetensors"):
        load_autoencoder(tmp_path)


def test_published_size():
    """Stable Diffusion's autoencoder has 83,653,863 weights; no number of them is drawn here."""
    whole = abstract_module(lambda rngs: AutoencoderKL(AutoencoderConfig(), rngs=rngs))
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters(whole))) == 83_653_863
