"""Published checkpoints become folders, and folders the denoiser that the checkpoint was."""

from __future__ import annotations

import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.process import karras
from jaxsearch.models import edm_folder
from jaxsearch.models.adm import AdmConfig
from jaxsearch.models.converted import write_converted
from jaxsearch.models.edm_folder import (
    EdmConfig,
    Preconditioning,
    abstract_network,
    load_folder,
    read_config,
    read_published,
)
from jaxsearch.models.song import SongConfig
from jaxsearch.solvers import heun
from jaxsearch.zoo.edm import decoder
from tests.jitted import called
from tests.models.references import adm_reference, adm_state_dicts
from tests.models.test_song import Reference

ADM = AdmConfig(
    image_size=8, model_channels=32, channel_mult=(1, 2), num_res_blocks=1,
    attention_resolutions=(4,), head_channels=64, num_classes=7,
)  # fmt: skip
SONG = SongConfig(
    image_size=8, model_channels=16, channel_mult=(1, 2), num_blocks=1, attention_resolutions=(8,),
    encoder="residual", resample_filter=(1, 3, 3, 1), embedding="fourier", noise_mult=2,
    num_classes=3,
)  # fmt: skip
ADM_MADE_WITH = {
    "model_type": "DhariwalUNet", "img_resolution": 8, "img_channels": 3, "label_dim": 7,
    "model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4],
    "dropout": 0.1, "use_fp16": True, "sigma_data": 0.5,
}  # fmt: skip
SONG_MADE_WITH = {
    "img_resolution": 8, "img_channels": 3, "label_dim": 3, "model_channels": 16,
    "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8], "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1], "embedding_type": "fourier", "channel_mult_noise": 2,
    "augment_dim": 9, "decoder_type": "standard",
}  # fmt: skip


@pytest.fixture(scope="module")
def adm():
    pytest.importorskip("torch")
    reference = adm_reference(ADM)
    return reference, *adm_state_dicts(reference, ADM)


@pytest.fixture
def pickled(torch, persistence, tmp_path):
    """Writes tensors as a network of EDM's pickles: `(class, tensors, made with) -> path`."""

    @persistence
    class Part(torch.nn.Module):
        def put(self, key, tensor):
            name, _, rest = key.partition(".")
            if rest:
                if name not in self._modules:
                    self.add_module(name, Part())
                self._modules[name].put(rest, tensor)
            elif name in ("resample_filter", "freqs"):
                self.register_buffer(name, torch.from_numpy(np.array(tensor)))
            else:
                self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(tensor.copy())))

    def write(class_name, tensors, settings, arguments=()):
        whole = persistence(type(class_name, (Part,), {}))()
        whole._init_args, whole._init_kwargs = arguments, settings
        for key, tensor in tensors.items():
            whole.put(f"model.{key}", tensor)
        path = tmp_path / "network.pkl"
        path.write_bytes(pickle.dumps({"ema": whole, "augment_pipe": None}))
        return path

    return write


def denoised(folder, sigma, label, x):
    _, denoiser = load_folder(folder)
    return called(denoiser, jnp.asarray(x), jnp.asarray(sigma), jnp.asarray(label))


def write_folder(folder, config, tensors, **kwargs):
    module, classes = abstract_network(config), config.num_classes
    write_converted(folder, config.to_json(), module, tensors, num_classes=classes, **kwargs)


SIGMA = np.array([0.02, 0.7, 30.0], np.float32)


def inputs(config):
    rng = np.random.default_rng(0)
    side = config.image_size
    x = rng.normal(size=(3, side, side, config.in_channels)) * SIGMA[:, None, None, None]
    return x.astype(np.float32), rng.integers(0, config.num_classes, 3).astype(np.int32)


def by_table_1(network, kind, x, sigma):
    """Karras et al. 2022, table 1: the clean estimate, in float64."""
    x, sigma = x.astype(np.float64), sigma.astype(np.float64)
    level = sigma[:, None, None, None]
    if kind in ("edm", "openai"):
        total = np.sqrt(0.25 + level**2)
        scale = 0.25 if kind == "edm" else 250
        output = network(x / total, scale * np.log(sigma))
        return 0.25 / total**2 * x + 0.5 * level / total * output
    if kind == "vp":
        t = (np.sqrt(0.1**2 + 2 * 19.9 * np.log(1 + sigma**2)) - 0.1) / 19.9
        return x - level * network(x / np.sqrt(1 + level**2), 999 * t)
    return x + level * network(x, np.log(sigma / 2))


def of_adm(reference, label):
    import torch

    def network(x, t):
        as_float = [torch.from_numpy(a.astype(np.float32)) for a in (x, t)]
        with torch.no_grad():
            out = reference(
                as_float[0].permute(0, 3, 1, 2), as_float[1], class_labels=torch.from_numpy(label)
            ).sample
        return out.permute(0, 2, 3, 1).numpy()

    return network


def error(found, wanted):
    return np.max(np.abs(np.asarray(found) - wanted)) / np.std(wanted)


def test_a_pickle_of_the_imagenet_network(adm, pickled, tmp_path):
    reference, _, tensors = adm
    path = pickled("EDMPrecond", tensors, ADM_MADE_WITH)
    config, found = read_published(path)
    own = dataclasses.replace(ADM, min_group_channels=4)
    assert config == EdmConfig(own, Preconditioning())
    # The reference has 32 groups whatever the width; so has EDM's class from 128 channels on.
    config = dataclasses.replace(config, network=ADM)
    write_folder(tmp_path / "folder", config, found)
    x, label = inputs(ADM)
    prediction = denoised(tmp_path / "folder", SIGMA, label, x)
    wanted = by_table_1(of_adm(reference, label), "edm", x, SIGMA)
    assert error(prediction.x0, wanted) < 2e-5


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_of_openai(adm, torch, tmp_path, zipped):
    reference, tensors, _ = adm
    weights = {key: torch.from_numpy(value) for key, value in tensors.items()}
    path = tmp_path / "edm.pt"
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    given = EdmConfig(ADM, edm_folder.PUBLISHED["openai-edm-imagenet64"].preconditioning)
    write_folder(tmp_path / "folder", *read_published(path, given))
    x, label = inputs(ADM)
    prediction = denoised(tmp_path / "folder", SIGMA, label, x)
    wanted = by_table_1(of_adm(reference, label), "openai", x, SIGMA)
    assert error(prediction.x0, wanted) < 1e-4  # its times reach 1000, in float32


@pytest.mark.parametrize(
    ("class_name", "kind", "more"),
    [
        ("VPPrecond", "vp", {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5}),
        ("VEPrecond", "ve", {"sigma_min": 0.02, "sigma_max": 100}),
        ("EDMPrecond", "edm", {"model_type": "SongUNet"}),
    ],
)
def test_a_pickle_of_song_s_networks(pickled, tmp_path, class_name, kind, more):
    reference = Reference(SONG)
    config, tensors = read_published(pickled(class_name, reference.weights, SONG_MADE_WITH | more))
    assert config == EdmConfig(SONG, Preconditioning(kind=kind))
    write_folder(tmp_path / "folder", config, tensors)
    x, label = inputs(SONG)
    prediction = denoised(tmp_path / "folder", SIGMA, label, x)

    def network(x, t):
        return reference(x.astype(np.float32), t.astype(np.float32), label)

    wanted = by_table_1(network, kind, x, SIGMA)
    assert error(prediction.x0, wanted) < 1e-4  # times of "vp" reach 1000, in float32
    level = SIGMA[:, None, None, None]
    np.testing.assert_allclose(prediction.x0 + level * prediction.eps, x, rtol=1e-4, atol=1e-4)


def test_a_whole_trajectory(adm, tmp_path):
    """Algorithm 2 of Karras et al. 2022 in NumPy, from the same noises to the same picture."""
    reference, tensors, _ = adm
    write_folder(tmp_path / "folder", EdmConfig(ADM), tensors)
    _, denoiser = load_folder(tmp_path / "folder")
    solver = heun(karras(denoiser.process, num_steps=6), churn=40.0)
    rng = np.random.default_rng(5)
    label = np.array([3, 6], np.int32)
    first, *injected = rng.normal(size=(7, 2, 8, 8, 3)).astype(np.float32)

    network = of_adm(reference, label)
    levels = np.append([(80 ** (1 / 7) + i / 5 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
                        for i in range(6)], 0)  # fmt: skip
    wanted = first * np.float64(80)
    for now, after, noise in zip(levels[:-1], levels[1:], injected, strict=True):
        churned = now * (1 + (np.sqrt(2) - 1) * (0.05 <= now <= 50))
        wanted = wanted + np.sqrt(churned**2 - now**2) * 1.003 * noise
        slope = (wanted - by_table_1(network, "edm", wanted, np.full(2, churned))) / churned
        moved = wanted + (after - churned) * slope
        if after:
            again = (moved - by_table_1(network, "edm", moved, np.full(2, after))) / after
            moved = wanted + (after - churned) * (slope + again) / 2
        wanted = moved

    found, memory = jnp.asarray(80 * first), solver.memory(denoiser.shape)
    step = jax.jit(
        lambda denoiser, x, i, noise, memory: solver.step(
            lambda x, t: denoiser(x, t, jnp.asarray(label)), x, i, noise, memory
        )
    )
    for i, noise in enumerate(injected):
        index = jnp.full((2,), i, jnp.int32)
        found, _, memory = step(denoiser, found, index, jnp.asarray(noise), memory)
    assert error(found, wanted) < 1e-4
    pictures = decoder()(found)
    np.testing.assert_allclose(pictures, np.clip((wanted + 1) / 2, 0, 1), atol=1e-4)
    assert np.mean((pictures > 0) & (pictures < 1)) > 0.05


def test_half_precision_is_asked_for(pickled, tmp_path):
    config, tensors = read_published(pickled("VEPrecond", Reference(SONG).weights, SONG_MADE_WITH))
    write_folder(tmp_path / "folder", config, tensors)
    x, label = inputs(SONG)
    plain = denoised(tmp_path / "folder", SIGMA, label, x).x0
    _, denoiser = load_folder(tmp_path / "folder", dtype="bfloat16")
    assert denoiser.params["map_layer0"]["kernel"].dtype == jnp.bfloat16
    assert denoiser.params["map_noise"]["freqs"].dtype == jnp.float32
    half = called(denoiser, jnp.asarray(x), jnp.asarray(SIGMA), jnp.asarray(label)).x0
    assert 1e-4 < error(half, np.asarray(plain)) < 0.1


def test_a_config_comes_back(tmp_path):
    for config in (EdmConfig(ADM), EdmConfig(SONG, Preconditioning("vp", beta_min=0.2))):
        (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
        assert read_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("class_name", "change", "message"),
    [
        ("iDDPMPrecond", {}, "its network is a iDDPMPrecond, which is none of EDMPrecond"),
        ("EDMPrecond", {"model_type": "UNet"}, "model_type is 'UNet'"),
        ("EDMPrecond", {"skip_scale": 2}, "has a setting 'skip_scale', which is not known"),
        ("EDMPrecond", {"decoder_type": "skip"}, "decoder_type is 'skip': only 'standard'"),
        ("EDMPrecond", {"encoder_type": "skip"}, "encoder is 'skip', which SongConfig cannot have"),
        ("EDMPrecond", {"img_resolution": None}, "does not say its image_size"),
    ],
)
def test_a_pickle_of_something_else_is_refused(pickled, class_name, change, message):
    settings = SONG_MADE_WITH | {"model_type": "SongUNet"} | change
    path = pickled(class_name, {"map_layer0.weight": np.ones((2, 2), np.float32)}, settings)
    with pytest.raises(ValueError, match=message) as caught:
        read_published(path)
    assert "network.pkl" in str(caught.value)


def test_arguments_without_names_are_refused(pickled):
    path = pickled("EDMPrecond", {}, {}, arguments=(64,))
    with pytest.raises(ValueError, match="made with arguments that have no names"):
        read_published(path)


def test_what_does_not_fit_leaves_no_folder(adm, tmp_path):
    tensors = dict(adm[1])
    del tensors["out.2.bias"]
    with pytest.raises(ValueError, match=r"missing: out\.2\.bias"):
        write_folder(tmp_path / "folder", EdmConfig(ADM), tensors)
    with pytest.raises(ValueError, match="2 labels for 7 classes"):
        write_folder(tmp_path / "folder", EdmConfig(ADM), adm[1], labels=["a", "b"])
    assert not (tmp_path / "folder").exists()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    with pytest.raises(ValueError, match="is not empty: take a new folder"):
        write_folder(tmp_path / "folder", EdmConfig(ADM), adm[1])


def test_a_config_is_wanted_where_there_is_none(torch, tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="holds weights only: say which network"):
        read_published(tmp_path / "weights.pt")


def test_a_second_config_is_refused(pickled):
    path = pickled("VEPrecond", Reference(SONG).weights, SONG_MADE_WITH)
    with pytest.raises(ValueError, match="carries its own config"):
        read_published(path, EdmConfig(ADM))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("network"), "has no entry 'network'"),
        (lambda raw: raw.update(kind="unet"), "kind is 'unet', but there is only adm and song"),
        (lambda raw: raw["network"].pop("head_channels"), "has no entry 'head_channels'"),
        (lambda raw: raw["network"].update(heads=3), "has an entry 'heads'"),
        (lambda raw: raw["network"].update(image_size="8"), "image_size is '8'"),
        (lambda raw: raw["network"].update(channel_mult=[1, 2.5]), r"channel_mult is \[1, 2.5\]"),
        (lambda raw: raw["preconditioning"].update(kind="ddpm"), "kind is 'ddpm'"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path, change, message):
    raw = EdmConfig(ADM).to_json()
    change(raw)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=message) as caught:
        load_folder(tmp_path)
    assert "config.json" in str(caught.value)


def test_files_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*config.json: no such file"):
        load_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: it is no JSON"):
        load_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(EdmConfig(ADM).to_json()))
    with pytest.raises(ValueError, match=r"model.safetensors"):
        load_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match=r"cannot read weights from .*model.safetensors"):
        load_folder(tmp_path)
