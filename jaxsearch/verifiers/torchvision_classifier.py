"""ImageNet classifiers from torchvision's state dicts as verifiers: ResNet, ConvNeXt, ViT."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, NamedTuple

from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.models import convnext, resnet, vit
from jaxsearch.models.layers import compute_type
from jaxsearch.models.loading import abstract_module, functional, loaded_once
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.verifiers.classifier import classifier_probability
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.verifiers.resize import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PATHS,
    Filter,
    Path,
    Preprocessing,
    preprocess,
)
from jaxsearch.verifiers.weights import read_weights

_FAMILIES: tuple[ModuleType, ...] = (resnet, convnext, vit)


@facts(
    Facts(
        (0, 1),
        "path=float",
        ("label",),
        "resnet50-0676ba61.pth and others of torchvision",
        "BSD-3-Clause; those named SWAG CC BY-NC 4.0",
    )
)
def torchvision_classifier(
    *,
    weights: str = "",
    size: int = 224,
    short_side: int = 256,
    filter: Filter = "bilinear",
    path: Path = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Verifier:
    """Rewards images of the class that was asked for: a ResNet's, ConvNeXt's or ViT's probability.

    Which of them a file holds follows from its keys and shapes. The weights are under the BSD
    licence; those of ViT named SWAG are for research only.

    Args:
        weights: a state dict of torchvision's, such as `resnet50-0676ba61.pth`.
        size: sides of the square that the network is given, as published with the weights.
        short_side: what the shorter side is resized to before the middle is cut out, as published:
            256 of the first weights of ResNet and of ViT, 232 of the second of ResNet, 236, 230,
            232 and 232 of ConvNeXt from tiny to large.
        filter: of resizing: `"bilinear"` or `"bicubic"`.
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of weights and computation; probabilities are float32.

    Raises:
        ValueError: if there is no file, or it holds something else; if a setting cannot be.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016; Liu et al., A ConvNet for the
        2020s, 2022; Dosovitskiy et al., An Image is Worth 16x16 Words, 2021.
    """
    if path not in PATHS:
        raise ValueError(f"{path=} is unknown: pass '8bit' or 'float'")
    type_ = compute_type(dtype)
    found = _network(str(weights), type_)
    if found.size not in (None, size):
        raise ValueError(f"size is {size}: the network of {weights} takes {found.size}")
    wanted = Preprocessing(size, short_side, filter, IMAGENET_MEAN, IMAGENET_STD)
    wanted.check()
    return classifier_probability(
        "torchvision_classifier",
        _logits(found.apply, wanted, path),
        found.params,
        num_labels=found.num_classes,
    )


class _Network(NamedTuple):
    apply: Callable[..., Array]
    params: PyTree
    size: int | None  # of its images; None for any
    num_classes: int


@loaded_once
def _network(weights: str, dtype: Any) -> _Network:
    tensors = read_weights("torchvision_classifier", weights, "one of torchvision's classifiers")
    for family in _FAMILIES:
        if family.is_one(tensors):
            config = family.config_of(tensors, weights)
            abstract = abstract_module(family.build(config, dtype))
            params = load_state_dict(abstract, family.from_torchvision(tensors), source=weights)
            apply = _function(family, config, dtype)
            return _Network(apply, params, getattr(config, "image_size", None), config.num_classes)
    raise ValueError(f"{weights} holds neither a ResNet, a ConvNeXt nor a ViT of torchvision's")


@functools.cache
def _function(family: ModuleType, config: Any, dtype: Any) -> Callable[..., Array]:
    """Files of equal shapes share their programs."""
    return functional(family.build(config, dtype))


@functools.cache
def _logits(
    network: Callable[..., Array], wanted: Preprocessing, path: Path
) -> Callable[[PyTree, Array], Array]:
    return lambda params, images: network(params, preprocess(images, wanted, path))
