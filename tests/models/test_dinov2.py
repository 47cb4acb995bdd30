"""DINOv2 against `transformers` at random weights, through the files that both forms are."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsearch.models.dinov2 import (
    Dinov2,
    Dinov2Config,
    dinov2_classifier_network,
    dinov2_network,
)
from jaxsearch.models.dinov2_folder import dinov2_config, load_dinov2, load_dinov2_head
from jaxsearch.models.loading import abstract_module, parameters
from tests.models.published import relative, to_torch, written

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CLASSES = 5
TINY = {
    "hidden_size": 36,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "image_size": 20,  # of training: a grid of five
    "patch_size": 4,
    "mlp_ratio": 3,
    "layer_norm_eps": 0.01,  # large, so that it shows where it stands
    "num_labels": CLASSES,
}
# Meta's files do not say the heads, which have 64 features, nor the epsilon.
META = {"hidden_size": 128, "num_attention_heads": 2, "layer_norm_eps": 1e-6}


def theirs(folder, kind="Dinov2ForImageClassification", **changes):
    config = getattr(transformers, kind.partition("For")[0].partition("Model")[0] + "Config")
    return written(getattr(transformers, kind)(config(**{**TINY, **changes})), folder)


KINDS = {
    "plain": ("Dinov2Model", {}, 20),
    "classifier": ("Dinov2ForImageClassification", {}, 12),
    # Two thirds of 90 are 60, and the next multiple of 8 is 64.
    "gated": ("Dinov2ForImageClassification", {"use_swiglu_ffn": True, "hidden_size": 30}, 28),
    "registers": ("Dinov2WithRegistersForImageClassification", {"num_register_tokens": 3}, 12),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """The reference, the folder that it wrote, and a side of images."""
    kind, changes, side = KINDS[request.param]
    return *theirs(tmp_path_factory.mktemp("dinov2"), kind, **changes), side


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return theirs(tmp_path_factory.mktemp("dinov2"))


def pictures(side: int, num: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num, side, side, 3)).astype(np.float32)


def backbone(reference):
    names = ("dinov2", "dinov2_with_registers")
    return next((getattr(reference, name) for name in names if hasattr(reference, name)), reference)


def test_computes_as_transformers_does(pair, record_property):
    """At the size of training and at others.

    Kills: query, key and value in another order; a scale or a register left out; the registers
    among the patches, before the class token or with a place; the gate exchanged with what it
    gates; the tanh gelu; the last normalisation left out.
    """
    reference, folder, side = pair
    found = load_dinov2(folder, image_size=side)
    images = pictures(side)
    features = jax.jit(dinov2_network(found.config))(found.params, jnp.asarray(images))
    wanted = backbone(reference)(to_torch(images)).pooler_output.numpy()
    record_property("relative", relative(features, wanted))
    assert relative(features, wanted) < 2e-5
    assert features.dtype == jnp.float32
    assert (found.head is not None) == hasattr(reference, "classifier")
    if found.head is not None:
        head = found.head
        assert (head.layers, head.num_classes) == (1, CLASSES)
        network = jax.jit(dinov2_classifier_network(found.config, head.layers, CLASSES))
        weights = {"backbone": found.params, "head": head.params}
        logits = network(weights, jnp.asarray(images))
        wanted = reference(to_torch(images)).logits.numpy()
        record_property("relative of logits", relative(logits, wanted))
        assert relative(logits, wanted) < 2e-5
        assert logits.dtype == jnp.float32


# ----------------------------------------------------------------------------------- Meta's files


def meta_names(reference) -> dict:
    """The weights of a network of `transformers` as Meta's files hold them."""
    found = {}
    for key, tensor in reference.state_dict().items():
        for one, other in (
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("embeddings.", ""),
            ("encoder.layer.", "blocks."),
            ("attention.o_proj", "attn.proj"),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
            ("mlp.down_proj", "mlp.w3"),
            ("layernorm.", "norm."),
        ):
            key = key.replace(one, other)
        found[key] = tensor
    for joined, parts in (
        ("attn.qkv", ("attention.q_proj", "attention.k_proj", "attention.v_proj")),
        ("mlp.w12", ("mlp.gate_proj", "mlp.up_proj")),
    ):
        for key in [key for key in found if f".{parts[0]}." in key]:
            tensors = [found.pop(key.replace(parts[0], part)) for part in parts]
            found[key.replace(parts[0], joined)] = torch.cat(tensors)
    return found


def places_of_meta(reference, antialias: bool):
    """The reference with the position embedding resized as Meta's code does it."""
    embeddings = reference.embeddings

    def resized(tokens, height, width):
        places = embeddings.position_embeddings
        side = round((places.shape[1] - 1) ** 0.5)
        grid = height // embeddings.patch_size
        if grid == side:
            return places
        patches = places[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        size = {"size": (grid, grid)} if antialias else {"scale_factor": ((grid + 0.1) / side,) * 2}
        patches = torch.nn.functional.interpolate(
            patches, mode="bicubic", antialias=antialias, **size
        )
        return torch.cat([places[:, :1], patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)

    embeddings.interpolate_pos_encoding = resized
    return reference


META_KINDS = {
    "plain": ("Dinov2Model", {}, 12),
    "gated": ("Dinov2Model", {"use_swiglu_ffn": True, "num_hidden_layers": 4}, 20),
    "registers": ("Dinov2WithRegistersModel", {"num_register_tokens": 3}, 12),
}


@pytest.fixture(scope="module", params=META_KINDS)
def meta(request, tmp_path_factory):
    """The reference, a file of its weights as Meta's are, and a side of images."""
    kind, changes, side = META_KINDS[request.param]
    folder = tmp_path_factory.mktemp("meta")
    reference, _ = theirs(folder, kind, **{**META, **changes})
    path = folder / "dinov2_pretrain.pth"
    torch.save(meta_names(reference), path)
    return places_of_meta(reference, antialias=request.param == "registers"), path, side


@pytest.mark.parametrize("layers", [1, 4])
def test_files_of_meta(meta, tmp_path, layers, record_property):
    """With the classifiers that read one block, and four.

    Kills: the position embedding resized as `transformers` does it; the class tokens last block
    first, not normalised, or of other blocks; registers among the patches.
    """
    reference, path, side = meta
    size = reference.config.hidden_size
    linear = torch.nn.Linear((1 + layers) * size, CLASSES)
    torch.save(linear.state_dict(), tmp_path / "head.pth")
    found = load_dinov2(path, image_size=side)
    head = load_dinov2_head(tmp_path / "head.pth", hidden_size=size)
    assert (found.head, head.layers, head.num_classes) == (None, layers, CLASSES)
    images = pictures(side)
    output = reference(to_torch(images), output_hidden_states=True)
    registers = getattr(reference.config, "num_register_tokens", 0)
    classes = [reference.layernorm(state)[:, 0] for state in output.hidden_states[-layers:]]
    patches = output.last_hidden_state[:, 1 + registers :].mean(dim=1)
    with torch.no_grad():
        wanted = linear(torch.cat([*classes, patches], dim=1)).numpy()
    network = jax.jit(dinov2_classifier_network(found.config, layers, CLASSES))
    logits = network({"backbone": found.params, "head": head.params}, jnp.asarray(images))
    record_property("relative", relative(logits, wanted))
    assert relative(logits, wanted) < 2e-5


def test_what_files_of_meta_leave_unsaid(tmp_path):
    tensors = {
        "patch_embed.proj.weight": torch.zeros(60, 3, 4, 4),
        "pos_embed": torch.zeros(1, 5, 60),
        "blocks.0.mlp.fc1.weight": torch.zeros(8, 60),
    }
    path = tmp_path / "network.pth"
    torch.save(tensors, path)
    with pytest.raises(ValueError, match="tokens have 60 features, which is no multiple of 64"):
        load_dinov2(path)
    torch.save({"patch_embed.proj.weight": torch.zeros(60, 3)}, path)
    with pytest.raises(ValueError, match=r"no state dict of DINOv2: it has no patch_embed.proj.we"):
        load_dinov2(path)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"weight": (5, 128), "bias": (5,)},
            r"weight is \(5, 128\), but a linear classifier of 64",
        ),
        ({"weight": (5, 130), "bias": (5,)}, r"weight is \(5, 130\), but"),
    ],
)
def test_classifiers_that_do_not_fit_are_named(tmp_path, shapes, message):
    torch.save({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "head.pth")
    hidden_size = 128 if shapes["weight"][1] == 128 else 64
    with pytest.raises(ValueError, match=message.replace("of 64", f"of {hidden_size}")):
        load_dinov2_head(tmp_path / "head.pth", hidden_size=hidden_size)


# -------------------------------------------------------------------------------------- other laws


def test_bfloat16_and_gradients(usual):
    found, images = load_dinov2(usual[1], image_size=12), jnp.asarray(pictures(12, 2))
    halves = load_dinov2(usual[1], image_size=12, dtype=jnp.bfloat16)
    exact = jax.jit(dinov2_network(found.config))(found.params, images)
    rough = jax.jit(dinov2_network(found.config, dtype=jnp.bfloat16))(halves.params, images)
    block = halves.params["blocks"]["block"]
    assert block["attn"]["qkv"]["kernel"].dtype == jnp.bfloat16
    assert halves.params["pos_embed"].dtype == block["ls1"]["gamma"].dtype == jnp.float32
    assert rough.dtype == jnp.float32
    assert 1e-4 < relative(rough, exact) < 0.05

    def slope(remat):
        network = dinov2_network(found.config, remat=remat)
        return jax.jit(jax.grad(lambda x: jnp.sum(network(found.params, x) ** 3)))(images)

    kept = slope(False)
    assert float(jnp.max(jnp.abs(kept))) > 1e-3
    np.testing.assert_allclose(kept, slope(True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"hidden_size": 384, "intermediate_size": 1536, "num_heads": 6}, 22_056_576),
        ({}, 86_580_480),
        (
            {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_heads": 16,
                "depth": 24,
            },
            304_368_640,
        ),
        (
            {
                "hidden_size": 1536,
                "intermediate_size": 4096,
                "num_heads": 24,
                "depth": 40,
                "gated": True,
            },
            1_136_480_768,
        ),
    ],
)
def test_published_sizes(changes, number):
    """ViT-S/14, B/14, L/14 and g/14, as trained."""
    config = Dinov2Config(**{"image_size": 518, **changes})
    whole = parameters(abstract_module(lambda rngs: Dinov2(config, rngs=rngs)))
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == number


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
@pytest.mark.parametrize("gated", [False, True])
def test_what_a_config_leaves_out_is_what_transformers_has(kind, gated):
    config = getattr(transformers, f"{kind}Config")(use_swiglu_ffn=gated)
    found = dinov2_config({"model_type": config.model_type, "use_swiglu_ffn": gated})
    reference = None
    with torch.device("meta"):
        reference = getattr(transformers, f"{kind}Model")(config)
    whole = parameters(abstract_module(lambda rngs: Dinov2(found, rngs=rngs)))
    theirs = sum(weight.numel() for weight in reference.parameters())
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == theirs
    assert (found.norm_epsilon, found.num_heads) == (config.layer_norm_eps, 12)
    assert (found.image_size, found.patch_size) == (config.image_size, config.patch_size)


# ------------------------------------------------------------------------------------------- files


def rewritten(usual, folder, change):
    tensors = change(load_file(usual[1] / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((usual[1] / "config.json").read_text())
    return folder


BLOCK = "dinov2.encoder.layer.2."
QUERY = f"{BLOCK}attention.attention.query.bias"
SCALE = f"{BLOCK}layer_scale1.lambda1"
PLACES = "dinov2.embeddings.position_embeddings"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != SCALE}, "missing: blocks.2.ls1.gamma"),
        (lambda t: {**t, f"{BLOCK}gate": t[SCALE]}, "unknown: blocks.2.gate"),
        (
            lambda t: {**t, SCALE: t[SCALE][:5]},
            r"mis-shaped: blocks.2.ls1.gamma \(5,\) instead of \(36,\)",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != QUERY.replace("query", "value")},
            r"blocks.2.attention.attention.value.bias is missing beside .*query.bias",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != PLACES},
            "missing: pos_embed",
        ),
        (
            lambda t: {**t, PLACES: t[PLACES][:, :10]},
            r"pos_embed is \(1, 10, 36\) instead of \(1, 26, 36\)",
        ),
        (
            lambda t: {**t, "classifier.weight": t["classifier.weight"][:, :40]},
            r"weight is \(5, 40\), but a linear classifier of 36 features",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != "classifier.bias"},
            "missing: bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(usual, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_dinov2(rewritten(usual, tmp_path, change), image_size=12)


MISTAKES = {
    "class": ({"architectures": ["Dinov2Backbone"]}, "architectures is .'Dinov2Backbone'.: only"),
    "kind": ({"model_type": "dinov3"}, "model_type is 'dinov3'"),
    "unknown": ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
    "registers": ({"num_register_tokens": 4}, "entry 'num_register_tokens' .it is 4. is not known"),
    "biases": ({"qkv_bias": False}, "qkv_bias is False: only True"),
    "activation": ({"hidden_act": "relu"}, "hidden_act is 'relu': only 'gelu'"),
    "heads": ({"num_attention_heads": 5}, "hidden_size is 36: it must be a multiple of 5"),
    "side": ({"image_size": 22}, "image_size is 22: it must be a multiple of 4"),
    "epsilon": ({"layer_norm_eps": 0}, "norm_epsilon is 0.0"),
    "depth": ({"num_hidden_layers": 0}, "depth is 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsupported_entries_are_named(usual, mistake):
    change, message = MISTAKES[mistake]
    entries = json.loads((usual[1] / "config.json").read_text())
    with pytest.raises(ValueError, match=message) as caught:
        dinov2_config({**entries, **change})
    assert "\n" not in str(caught.value)


def test_sizes_that_do_not_fit_are_named(usual):
    with pytest.raises(ValueError, match="image_size is 14: it must be a multiple of 4"):
        load_dinov2(usual[1], image_size=14)
    found = load_dinov2(usual[1], image_size=12)
    with pytest.raises(ValueError, match=r"\(1, 20, 20, 3\): the network needs \[n, 12, 12, 3\]"):
        dinov2_network(found.config)(found.params, jnp.zeros((1, 20, 20, 3)))
    with pytest.raises(ValueError, match="layers is 6: it must be a whole number from 1 to 5"):
        dinov2_classifier_network(found.config, 6, CLASSES)


def test_the_same_files_are_read_once(usual):
    first = load_dinov2(usual[1], image_size=12)
    assert load_dinov2(usual[1], image_size=12) is first
    assert load_dinov2(usual[1], image_size=16) is not first
    assert dinov2_network(first.config) is dinov2_network(first.config, dtype="float32")
    one, two = (dinov2_classifier_network(first.config, 1, CLASSES) for _ in range(2))
    assert one is two
