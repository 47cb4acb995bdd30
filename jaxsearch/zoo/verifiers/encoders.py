"""Encoders of images that published verifiers read, and CLIP's of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.clip import (
    LoadedClip,
    clip_image_network,
    clip_text_embedding_network,
    load_clip,
)
from jaxsearch.models.clip_tokenizer import load_clip_tokenizer
from jaxsearch.models.dinov2 import dinov2_network
from jaxsearch.models.dinov2_folder import IMAGE_SIZE, load_dinov2
from jaxsearch.models.folders import read_config
from jaxsearch.models.siglip import load_siglip, siglip_image_network
from jaxsearch.verifiers import resize
from jaxsearch.verifiers.embeddings import Embed, Preprocess
from jaxsearch.verifiers.resize import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from jaxsearch.zoo.texts import text_encoder
from jaxsearch.zoo.verifiers.prompted import preprocessing

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that CLIP was trained on, by channel (openai/CLIP)."""
DINOV2_SHORT_SIDE = 256
"""What the published classifiers on DINOv2 were measured with."""


class ImageEncoder(NamedTuple):
    """A network that turns images into embeddings, and what stands before it."""

    embed: Embed
    params: PyTree
    preprocess: Preprocess
    features: int
    family: str  # "clip", "siglip" or "dinov2"


def clip_images(size: int, path: resize.Path) -> Preprocess:
    """What stands before a CLIP: resized until the shorter side fits, and cut to a square."""
    return preprocessing(Preprocessing(size, size, "bicubic", CLIP_MEAN, CLIP_STD), path)


def clip_texts(clip: LoadedClip, folder: Path, *, dtype: Any) -> Callable[[Sequence[str]], Array]:
    """Texts [P] to their embeddings [P, features] float32 by a CLIP.

    Args:
        clip: its network.
        folder: that of its vocabulary.
        dtype: of weights and computation.
    """
    texts = clip.config.text
    return text_encoder(
        clip_text_embedding_network(clip.config, dtype=dtype),
        clip.texts,
        load_clip_tokenizer(folder, length=texts.max_position_embeddings),
        vocab_size=texts.vocab_size,
        source=folder,
    )


def dinov2_images(path: resize.Path) -> Preprocess:
    """What stands before a DINOv2: resized to a shorter side of 256, and cut to 224x224."""
    wanted = Preprocessing(IMAGE_SIZE, DINOV2_SHORT_SIDE, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    return preprocessing(wanted, path)


def image_encoder(
    source: Path, *, path: resize.Path, dtype: Any = "float32", remat: bool = False
) -> ImageEncoder:
    """The image encoder of a CLIP, a SigLIP or a DINOv2.

    Args:
        source: a folder of transformers, or a file of Meta's DINOv2.
        path: of the preprocessing.
        dtype: of weights and computation.
        remat: whether a gradient computes each block of the network again.

    Raises:
        ValueError: if it holds none of them, or cannot be read.
    """
    family = read_config(source).get("model_type") if source.is_dir() else "dinov2"
    options = {"dtype": dtype, "remat": remat}
    if family == "clip":
        clip = load_clip(source, dtype=dtype)
        prepare = clip_images(clip.config.vision.image_size, path)
        network = clip_image_network(clip.config, **options)
        return ImageEncoder(network, clip.images, prepare, clip.config.projection_dim, family)
    if family == "siglip":
        siglip = load_siglip(source, dtype=dtype)
        vision = siglip.config.vision
        prepare = preprocessing(Preprocessing(vision.image_size, None, "bicubic"), path)
        network = siglip_image_network(vision, **options)
        return ImageEncoder(network, siglip.images, prepare, vision.hidden_size, family)
    if family in ("dinov2", "dinov2_with_registers"):
        dino = load_dinov2(source, dtype=dtype)
        network = dinov2_network(dino.config, **options)
        features = dino.config.hidden_size
        return ImageEncoder(network, dino.params, dinov2_images(path), features, "dinov2")
    raise ValueError(f"model_type is {family!r}, but there is only clip, siglip and dinov2")
