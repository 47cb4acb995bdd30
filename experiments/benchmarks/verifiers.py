"""Verifiers' networks with their preprocessing, beside Pillow and PyTorch: images per second.

    python -m experiments.benchmarks.verifiers --only '["clip-b-32"]' --batch 8

Time: about a minute a network on 2 CPU cores, and up to 8 GB of memory. Full-size networks with
random weights, float32, both in one process and in turn, so that other work on the machine meets
both. Here one compiled program takes images of 512x512 pixels through the 8-bit path and the
network; there Pillow resizes each, PyTorch runs the network eagerly. `path` is the part of the
time here that goes by preprocessing. It needs the `test` extra.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jsonargparse import auto_cli
from PIL import Image
from rich.console import Console
from rich.table import Table

from jaxsearch.models import (
    clip,
    clip_text,
    clip_vision,
    convnext,
    dinov2,
    image_reward,
    resnet,
    siglip,
    vit,
)
from jaxsearch.models.loading import functional, parameters
from jaxsearch.verifiers.resize import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, preprocess
from jaxsearch.zoo.verifiers.encoders import CLIP_MEAN, CLIP_STD, DINOV2_SHORT_SIDE

SIDE = 512
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class Pair(NamedTuple):
    """A network with its preprocessing, and its reference in PyTorch."""

    build: Callable[[nnx.Rngs], nnx.Module]
    wanted: Preprocessing
    reference: Callable[[], Callable[[Any], Any]]  # takes [n, c, h, w]
    more: Callable[[int], tuple[Any, ...]] = lambda num: ()  # what ours is given beside n images


def _clip(**vision: Any) -> Pair:
    config = clip.ClipConfig(
        text=clip_text.ClipTextConfig(vocab_size=49408),
        vision=clip_vision.ClipVisionConfig(**vision),
        projection_dim=512,
        end=49407,
    )

    def reference() -> Callable[[Any], Any]:
        import transformers

        settings = transformers.CLIPVisionConfig(**vision, projection_dim=512)
        model = transformers.CLIPVisionModelWithProjection(settings).eval()
        return lambda x: model(pixel_values=x).image_embeds

    wanted = Preprocessing(224, 224, "bicubic", CLIP_MEAN, CLIP_STD)
    return Pair(lambda rngs: clip.ClipImages(config, rngs=rngs), wanted, reference)


def _clip_base() -> Pair:
    return _clip()


def _clip_large() -> Pair:
    return _clip(
        patch_size=14, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16,
    )  # fmt: skip


def _clip_huge() -> Pair:
    return _clip(
        patch_size=14, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
        num_attention_heads=16, hidden_act="gelu",
    )  # fmt: skip


def _image_reward() -> Pair:
    """With a prompt of 20 tokens, padded to 35."""
    config = image_reward.PUBLISHED
    ids = np.where(np.arange(35) < 20, np.arange(1000, 1035), -1).astype(np.int32)

    def reference() -> Callable[[Any], Any]:
        import torch
        import transformers

        vision, text = (dataclasses.asdict(one) for one in (config.vision, config.text))
        seeing = transformers.BlipVisionModel(transformers.BlipVisionConfig(**vision)).eval()
        settings = transformers.BlipTextConfig(**text, encoder_hidden_size=1024)
        reading = transformers.BlipTextModel(settings, add_pooling_layer=False).eval()
        tokens = torch.from_numpy(ids)[None].long()

        def run(x: Any) -> Any:
            seen = seeing(pixel_values=x).last_hidden_state
            own = tokens.expand(len(x), -1)
            read = reading(
                input_ids=own.clamp(min=0),
                attention_mask=(own >= 0).long(),
                encoder_hidden_states=seen,
                encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
            )
            return read.last_hidden_state[:, 0]

        return run

    wanted = Preprocessing(224, 224, "bicubic", CLIP_MEAN, CLIP_STD)
    return Pair(
        lambda rngs: image_reward.ImageReward(config, rngs=rngs),
        wanted,
        reference,
        lambda num: (jnp.asarray(np.broadcast_to(ids, (num, 35))),),
    )


def _siglip() -> Pair:
    config = siglip.SiglipVisionConfig()

    def reference() -> Callable[[Any], Any]:
        import transformers

        model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig()).eval()
        return lambda x: model(pixel_values=x).pooler_output

    wanted = Preprocessing(224, None, "bicubic")
    return Pair(lambda rngs: siglip.SiglipImages(config, rngs=rngs), wanted, reference)


def _dinov2() -> Pair:
    config = dinov2.Dinov2Config()

    def reference() -> Callable[[Any], Any]:
        import transformers

        settings = transformers.Dinov2Config(image_size=224, patch_size=14)
        model = transformers.Dinov2Model(settings).eval()
        return lambda x: model(pixel_values=x).pooler_output

    wanted = Preprocessing(224, DINOV2_SHORT_SIDE, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    return Pair(lambda rngs: dinov2.Dinov2(config, rngs=rngs), wanted, reference)


def _of_torchvision(build: Callable[[nnx.Rngs], nnx.Module], name: str) -> Pair:
    """A classifier whose reference is the class of `transformers` with its default config."""

    def reference() -> Callable[[Any], Any]:
        import transformers

        config = getattr(transformers, f"{name}Config")(num_labels=1000)
        model = getattr(transformers, f"{name}ForImageClassification")(config).eval()
        return lambda x: model(pixel_values=x).logits

    wanted = Preprocessing(224, 256, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
    return Pair(build, wanted, reference)


NETWORKS: dict[str, Callable[[], Pair]] = {
    "clip-b-32": _clip_base,
    "clip-l-14": _clip_large,
    "clip-h-14": _clip_huge,
    "image-reward": _image_reward,
    "siglip-b-16": _siglip,
    "dinov2-b-14": _dinov2,
    "resnet50": lambda: _of_torchvision(resnet.build(resnet.PUBLISHED["resnet50"]), "ResNet"),
    "convnext-tiny": lambda: _of_torchvision(
        convnext.build(convnext.PUBLISHED["convnext_tiny"]), "ConvNext"
    ),
    "vit-b-16": lambda: _of_torchvision(vit.build(vit.PUBLISHED["vit_b_16"]), "ViT"),
}


def by_pillow(images: np.ndarray, wanted: Preprocessing) -> Any:
    """Square uint8 images [n,h,h,3] as the publishers prepare them, for PyTorch [n,3,s,s]."""
    import torch

    side = wanted.short_side or wanted.size
    cut = round((side - wanted.size) / 2)
    inside = slice(cut, cut + wanted.size)
    small = [
        np.asarray(Image.fromarray(image).resize((side, side), _FILTERS[wanted.filter]))
        for image in images
    ]
    levels = np.stack(small)[:, inside, inside].astype(np.float32) / 255
    mean, deviation = np.asarray((wanted.mean, wanted.std), np.float32)
    x = (levels - mean) / deviation
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def main(batch: int = 8, repeats: int = 3, only: tuple[str, ...] = tuple(NETWORKS)) -> None:
    """Prints the table.

    Args:
        batch: images of a call.
        repeats: timed calls of each; the fastest counts.
        only: which networks.
    """
    import torch

    table = Table(
        title=f"batch {batch}, {SIDE}x{SIDE} pixels, float32, {jax.devices()[0].device_kind}, "
        f"{torch.get_num_threads()} threads, jax {jax.__version__}, torch {torch.__version__}"
    )
    for column in ("network", "compile s", "images/s", "path", "PyTorch images/s", "ratio"):
        table.add_column(column, justify="left" if column == "network" else "right")
    levels = np.random.default_rng(0).integers(0, 256, (batch, SIDE, SIDE, 3), dtype=np.uint8)
    images = jnp.asarray(levels, jnp.float32) / 255
    for name in only:
        pair = NETWORKS[name]()
        weights, network = parameters(pair.build(nnx.Rngs(0))), functional(pair.build)
        wanted, more = pair.wanted, pair.more(batch)

        def whole(
            weights: Any, images: Any, *more: Any, network: Any = network, wanted: Any = wanted
        ) -> Any:
            return network(weights, preprocess(images, wanted), *more)

        begin = time.perf_counter()
        compiled = jax.jit(whole).lower(weights, images, *more).compile()
        compile_seconds = time.perf_counter() - begin
        alone, ready = jax.jit(network), preprocess(images, wanted)
        reference = pair.reference()
        seconds: dict[str, list[float]] = {"ours": [], "network": [], "theirs": []}
        with torch.no_grad():
            for turn in range(repeats + 1):  # the first of each warms up
                marks = [time.perf_counter()]
                jax.block_until_ready(compiled(weights, images, *more))
                marks.append(time.perf_counter())
                jax.block_until_ready(alone(weights, ready, *more))
                marks.append(time.perf_counter())
                reference(by_pillow(levels, wanted))
                marks.append(time.perf_counter())
                for which, spent in zip(seconds.values(), np.diff(marks), strict=True):
                    which.extend([float(spent)] * bool(turn))
        ours, inner, theirs = (min(one) for one in seconds.values())
        table.add_row(
            name, f"{compile_seconds:.1f}", f"{batch / ours:.1f}", f"{1 - inner / ours:.0%}",
            f"{batch / theirs:.1f}", f"{theirs / ours:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    auto_cli(main)
