"""Networks whose features metrics are made of, by the names that the command knows.

Each is what a verifier reads already: one network, one preprocessing, one copy of the weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

from jaxsearch.core.types import Array, PyTree
from jaxsearch.metrics.extractor import Extracted, Extractor
from jaxsearch.verifiers.embeddings import Embed, Preprocess
from jaxsearch.verifiers.inception import inception_outputs
from jaxsearch.verifiers.resize import Path
from jaxsearch.zoo.digits import load as digits_load
from jaxsearch.zoo.scenes import load as scenes_load
from jaxsearch.zoo.scenes.world import SIDE
from jaxsearch.zoo.verifiers.encoders import image_encoder
from jaxsearch.zoo.verifiers.prompted import checkpoint, naming

Dtype = Literal["float32", "bfloat16"]


def inception(
    *,
    weights: str = "",
    resize: Literal["tensorflow", "pytorch"] = "tensorflow",
    dtype: Dtype = "float32",
) -> Extractor:
    """Inception v3 with FID's weights: 2048 features, logits, and 2023 spatial features.

    Args:
        weights: pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`.
        resize: how images become 299x299 pixels: `"tensorflow"` as in ADM's evaluator and in
            torch-fidelity, `"pytorch"` as in pytorch-fid.
        dtype: of weights and computation.

    Raises:
        ValueError: if the file is missing, or holds something else; if a setting cannot be.
    """
    apply, params = inception_outputs(weights=weights, resize=resize, dtype=dtype)
    return Extractor("inception", _of_inception(apply), params)


@functools.cache
def _of_inception(apply: Callable) -> Callable[[PyTree, Array], Extracted]:
    def extract(params: PyTree, images: Array) -> Extracted:
        found = apply(params, images)
        return Extracted(found.features, found.logits, found.spatial)

    return extract


def encoder(*, weights: str = "", path: Path = "8bit", dtype: Dtype = "float32") -> Extractor:
    """The embeddings of a CLIP, a SigLIP or a DINOv2, of their own length.

    Of CLIP ViT-B/32 they make CLIP-FID (Kynkaanniemi et al. 2023), of DINOv2 ViT-L/14 FD-DINOv2
    (Stein et al. 2023).

    Args:
        weights: a folder of transformers or its id on the hub, or a file of Meta's DINOv2.
        path: of the preprocessing: `"8bit"` is Pillow's, level by level.
        dtype: of weights and computation.

    Raises:
        ValueError: if they are missing, or something else; if a setting cannot be.
    """
    if not weights:
        raise ValueError(
            "encoder comes without weights: give those of openai/clip-vit-base-patch32 (CLIP-FID), "
            "say, as `weights`"
        )
    source = checkpoint("encoder", weights, "openai/clip-vit-base-patch32")
    with naming(source):
        found = image_encoder(source, path=path, dtype=dtype)
    return Extractor(found.family, _embedding(found.embed, found.preprocess), found.params)


@functools.cache
def _embedding(embed: Embed, preprocess: Preprocess) -> Callable[[PyTree, Array], Extracted]:
    return lambda params, images: Extracted(embed(params, preprocess(images)))


def digits() -> Extractor:
    """The last hidden layer of the digits' judge, 64 features, and its logits of ten classes."""
    return Extractor("digits", _of_judge(), digits_load.weights("judge"))


@functools.cache
def _of_judge() -> Callable[[PyTree, Array], Extracted]:
    features, logits = digits_load.network("judge", "features"), digits_load.network("judge")
    return lambda params, images: Extracted(features(params, images), logits(params, images))


def scenes(*, network: Literal["attributes", "contrastive"] = "attributes") -> Extractor:
    """What a verifier of scenes makes of a scene.

    Args:
        network: `"attributes"` gives 96 features, from which things are counted, `"contrastive"`
            the 64 of the embedding that is compared with a caption's. Take the one that has not
            guided a search.

    Raises:
        ValueError: if there is no such network.
    """
    methods = {"attributes": "tower", "contrastive": "image"}
    if network not in methods:
        raise ValueError(f"network is {network!r}: pass {' or '.join(map(repr, methods))}")
    apply = _of_scenes(network, methods[network])
    return Extractor(f"scenes/{network}", apply, scenes_load.weights(network))


@functools.cache
def _of_scenes(name: str, method: str) -> Callable[[PyTree, Array], Extracted]:
    apply = scenes_load.network(name, method)

    def extract(params: PyTree, images: Array) -> Extracted:
        size = images.shape[1:]
        if size != (SIDE, SIDE, 3):
            raise ValueError(
                f"scenes are of {SIDE}x{SIDE} pixels in colour, not {size[1]}x{size[0]} of "
                f"{size[2]}: take another network by --features"
            )
        return Extracted(apply(params, images))

    return extract


EXTRACTORS: dict[str, Callable[..., Extractor]] = {
    "inception": inception,
    "encoder": encoder,
    "digits": digits,
    "scenes": scenes,
}
