"""Classifiers of `transformers` at random weights, written as torchvision's state dicts are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.models.loading import abstract_module, functional
from jaxsearch.models.pickles import read_state_dict
from jaxsearch.models.state_dict import load_state_dict
from tests.models.published import randomised, to_torch

_BLOCK = r"\.stages\.(\d+)\.layers\.(\d+)"
_RENAMED = {
    "resnet": (
        (r"resnet\.embedder\.embedder\.convolution", "conv1"),
        (r"resnet\.embedder\.embedder\.normalization", "bn1"),
        (rf"resnet\.encoder{_BLOCK}\.shortcut\.convolution", "layer{0}.{1}.downsample.0"),
        (rf"resnet\.encoder{_BLOCK}\.shortcut\.normalization", "layer{0}.{1}.downsample.1"),
        (rf"resnet\.encoder{_BLOCK}\.layer\.(\d+)\.convolution", "layer{0}.{1}.conv{2}"),
        (rf"resnet\.encoder{_BLOCK}\.layer\.(\d+)\.normalization", "layer{0}.{1}.bn{2}"),
        (r"classifier\.1", "fc"),
    ),
    "convnext": (
        (r"convnext\.embeddings\.patch_embeddings", "features.0.0"),
        (r"convnext\.embeddings\.layernorm", "features.0.1"),
        (rf"convnext\.encoder{_BLOCK}\.dwconv", "features.{0}.{1}.block.0"),
        (rf"convnext\.encoder{_BLOCK}\.layernorm", "features.{0}.{1}.block.2"),
        (rf"convnext\.encoder{_BLOCK}\.pwconv1", "features.{0}.{1}.block.3"),
        (rf"convnext\.encoder{_BLOCK}\.pwconv2", "features.{0}.{1}.block.5"),
        (rf"convnext\.encoder{_BLOCK}\.layer_scale_parameter", "features.{0}.{1}.layer_scale"),
        (r"convnext\.encoder\.stages\.(\d+)\.downsampling_layer\.(\d+)", "features.{0}.{1}"),
        (r"convnext\.layernorm", "classifier.0"),
        (r"classifier", "classifier.2"),
    ),
    "vit": (
        (r"vit\.embeddings\.cls_token", "class_token"),
        (r"vit\.embeddings\.position_embeddings", "encoder.pos_embedding"),
        (r"vit\.embeddings\.patch_embeddings\.projection", "conv_proj"),
        (r"vit\.layers\.(\d+)\.layernorm_before", "encoder.layers.encoder_layer_{0}.ln_1"),
        (r"vit\.layers\.(\d+)\.layernorm_after", "encoder.layers.encoder_layer_{0}.ln_2"),
        (
            r"vit\.layers\.(\d+)\.attention\.in_proj",
            "encoder.layers.encoder_layer_{0}.self_attention.in_proj",
        ),
        (
            r"vit\.layers\.(\d+)\.attention\.o_proj",
            "encoder.layers.encoder_layer_{0}.self_attention.out_proj",
        ),
        (r"vit\.layers\.(\d+)\.mlp\.fc1", "encoder.layers.encoder_layer_{0}.mlp.linear_1"),
        (r"vit\.layers\.(\d+)\.mlp\.fc2", "encoder.layers.encoder_layer_{0}.mlp.linear_2"),
        (r"vit\.layernorm", "encoder.ln"),
        (r"classifier", "heads.head"),
    ),
}


def reference(family: str, **settings: Any) -> Any:
    """A classifier of `transformers`, all weights and statistics random."""
    import torch
    import transformers

    made = {
        "resnet": (transformers.ResNetConfig, transformers.ResNetForImageClassification),
        "convnext": (transformers.ConvNextConfig, transformers.ConvNextForImageClassification),
        "vit": (transformers.ViTConfig, transformers.ViTForImageClassification),
    }
    config, network = made[family]
    model = randomised(network(config(**settings)))
    generator = torch.Generator().manual_seed(1)
    for key, values in model.named_buffers():
        if key.endswith("running_mean"):
            values.normal_(generator=generator).mul_(0.3)
        if key.endswith("running_var"):
            values.uniform_(0.5, 2.0, generator=generator)
    return model


def _name(family: str, layer: str) -> str:
    for pattern, form in _RENAMED[family]:
        match = re.fullmatch(pattern, layer)
        if match:
            numbers = [int(one) for one in match.groups()]
            if family == "resnet":  # torchvision counts stages and convolutions from 1
                numbers = [number + (place != 1) for place, number in enumerate(numbers)]
            if family == "convnext":
                numbers[:1] = [2 * one + ("downsampling" not in layer) for one in numbers[:1]]
            return form.format(*numbers)
    raise KeyError(layer)


def write(model: Any, family: str, path: Path) -> Path:
    """Writes the weights of a reference under torchvision's keys."""
    import torch

    found = dict(model.state_dict())
    for key in [key for key in found if ".q_proj." in key]:
        parts = [found.pop(key.replace(".q_proj.", f".{one}_proj.")) for one in "qkv"]
        found[key.replace(".q_proj.", ".in_proj.")] = torch.cat(parts)
    renamed = {}
    for key, tensor in found.items():
        layer, _, leaf = key.rpartition(".")
        if leaf in ("cls_token", "position_embeddings", "layer_scale_parameter"):
            scale = leaf == "layer_scale_parameter"
            renamed[_name(family, key)] = tensor[:, None, None] if scale else tensor
        else:
            joint = "_" if layer.endswith(".in_proj") else "."
            renamed[_name(family, layer) + joint + leaf] = tensor
    torch.save({key: tensor.clone() for key, tensor in renamed.items()}, path)
    return path


def logits_of(model: Any, x: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(to_torch(x)).logits.numpy()


def applied(module: Any, path: Path, x: np.ndarray, dtype: Any = jnp.float32) -> jax.Array:
    """Logits by a module of this package that reads the file of a published form."""
    tensors = read_state_dict(path)
    assert module.is_one(tensors)
    make = module.build(module.config_of(tensors, path), dtype)
    abstract = abstract_module(make)
    params = load_state_dict(abstract, module.from_torchvision(tensors), source=path)
    return jax.jit(functional(make))(params, jnp.asarray(x))


def error(found: Any, wanted: np.ndarray) -> float:
    return float(np.max(np.abs(np.asarray(found) - wanted)) / np.std(wanted))


def num_parameters(module: Any, name: str) -> int:
    """Of a published network, by its shapes; statistics are none."""
    abstract = abstract_module(module.build(module.PUBLISHED[name]))
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(abstract)))
    return sum(leaf.size for path, leaf in leaves if "running_" not in str(path))


def images(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, height, width, 3)).astype(np.float32)
