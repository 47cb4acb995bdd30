"""Inception v3 as a verifier: what an Inception score is made of."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.models.configs import read_text
from jaxsearch.models.inception import InceptionConfig, Outputs, build, from_pytorch_fid
from jaxsearch.models.layers import compute_type
from jaxsearch.models.loading import abstract_module, functional, loaded_once
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.verifiers.classifier import classifier_probability
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.verifiers.jpeg import to_uint8
from jaxsearch.verifiers.resize import PATHS, Path, interpolate
from jaxsearch.verifiers.weights import read_weights

CONFIG = InceptionConfig()
SIDE = 299
"""Sides of the images that the network is given."""
_RESIZES = ("tensorflow", "pytorch")
_ENTRY = re.compile(r'target_class:\s*(\d+)\s+target_class_string:\s*"(n\d{8})"')


@facts(
    Facts(
        (0, 1),
        "path=float",
        ("label",),
        "pt_inception-2015-12-05-6726825d.pth (mseitzer/pytorch-fid)",
        "Apache-2.0",
    )
)
def inception(
    *,
    weights: str = "",
    label_map: str = "",
    resize: Literal["tensorflow", "pytorch"] = "tensorflow",
    bias: bool = False,
    path: Path = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Verifier:
    """Rewards images of the class that was asked for: its probability under Inception v3.

    The network's 1008 outputs are not in the order of ImageNet's labels; the map that was published
    with it says which is which. The probability is one among all 1008. The weights are under the
    Apache licence 2.0.

    Args:
        weights: pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`.
        label_map: `imagenet_2012_challenge_label_map_proto.pbtxt` of `inception-2015-12-05.tgz`.
        resize: how images become 299x299 pixels, bilinear in both: `"tensorflow"` as in the graph
            that published scores were computed with, `"pytorch"` as in pytorch-fid.
        bias: whether the last layer's is added; Inception scores are computed without it.
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of weights and computation; probabilities are float32.

    Raises:
        ValueError: if a file is missing, or holds something else; if a setting cannot be.

    Reference:
        Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016; Salimans et
        al., Improved Techniques for Training GANs, 2016.
    """
    _check_ways(resize, path)
    type_ = compute_type(dtype)
    params = _params(str(weights), CONFIG, type_)
    labels = _of_labels(str(label_map), CONFIG.num_classes)
    order = (*labels, *sorted(set(range(CONFIG.num_classes)) - set(labels)))
    apply = _logits(CONFIG, type_, order, resize, bool(bias), path)
    return classifier_probability("inception", apply, params, num_labels=len(labels))


def inception_outputs(
    *, weights: str, resize: str = "tensorflow", path: Path = "8bit", dtype: str = "float32"
) -> tuple[Callable[[PyTree, Array], Outputs], PyTree]:
    """All that metrics are made of: `(params, images [n,h,w,c] in [0,1]) -> Outputs`, and params.

    Arguments are those of `inception`, and so are the weights in memory.

    Raises:
        ValueError: if the file is missing, or holds something else; if a setting cannot be.
    """
    _check_ways(resize, path)
    type_ = compute_type(dtype)
    return _outputs(CONFIG, type_, resize, path), _params(str(weights), CONFIG, type_)


@functools.cache
def _outputs(
    config: InceptionConfig, dtype: Any, resize: str, path: Path
) -> Callable[[PyTree, Array], Outputs]:
    network = functional(build(config, dtype), "outputs")
    return lambda params, images: network(params, prepared(images, resize, path))


def _check_ways(resize: str, path: str) -> None:
    for setting, value, known in (("resize", resize, _RESIZES), ("path", path, PATHS)):
        if value not in known:
            raise ValueError(f"{setting} is {value!r}: pass {' or '.join(map(repr, known))}")


def prepared(images: Array, resize: str, path: Path) -> Array:
    """Images [n,h,w,c] in [0,1] as the network is given them, [n,299,299,3] in about [-1,1].

    One with a pixel that is not finite is NaN throughout.

    Raises:
        ValueError: if they have other channels than 1 or 3, or no pixels.
    """
    _, height, width, channels = images.shape
    if channels not in (1, 3) or not height * width:
        raise ValueError(
            f"images have shape {images.shape}: pass [n,h,w,c] with c = 1 (grey) or 3 (RGB)"
        )
    x = to_uint8(images).astype(jnp.float32) / 255 if path == "8bit" else images
    x = interpolate(x, SIDE, SIDE, half_pixels=resize == "pytorch")
    # TensorFlow's graph takes levels, less 128 and over 128; pytorch-fid takes [0,1] to [-1,1].
    x = 2 * x - 1 if resize == "pytorch" else (255 * x - 128) / 128
    finite = jnp.all(jnp.isfinite(images), axis=(1, 2, 3), keepdims=True)
    return jnp.where(finite, jnp.broadcast_to(x, (*x.shape[:3], 3)), jnp.nan)


def outputs(label_map: str, num_classes: int) -> tuple[int, ...]:
    """The output of the network that stands for each label of ImageNet, in the labels' order.

    Labels are the synsets in the order of their names, as everywhere in ImageNet's use since 2012.

    Raises:
        ValueError: if the file cannot be read, or maps no class, or one twice or to no output.
    """
    found = {name: int(output) for output, name in _ENTRY.findall(read_text(label_map))}
    order = tuple(found[name] for name in sorted(found))
    if not order:
        raise ValueError(f"{label_map} maps no class: it has no entries with a target_class")
    if len(set(order)) < len(order) or max(order) >= num_classes:
        raise ValueError(f"{label_map} is no map to the {num_classes} outputs of the network")
    return order


@loaded_once
def _of_labels(label_map: str, num_classes: int) -> tuple[int, ...]:
    """The outputs of labels, in the labels' order."""
    if not label_map:
        raise ValueError(
            "inception comes without the order of its outputs: give the path of "
            "imagenet_2012_challenge_label_map_proto.pbtxt as `label_map`"
        )
    return outputs(label_map, num_classes)


@loaded_once
def _params(weights: str, config: InceptionConfig, dtype: Any) -> PyTree:
    tensors = read_weights("inception", weights, "pt_inception-2015-12-05-6726825d.pth")
    abstract = abstract_module(build(config, dtype))
    return load_state_dict(abstract, from_pytorch_fid(tensors), source=weights)


@functools.cache
def _logits(
    config: InceptionConfig,
    dtype: Any,
    order: tuple[int, ...],
    resize: str,
    bias: bool,
    path: Path,
) -> Callable[[PyTree, Array], Array]:
    network = functional(build(config, dtype), "__call__" if bias else "without_bias")
    places = np.array(order, np.int32)
    return lambda params, images: network(params, prepared(images, resize, path))[:, places]
