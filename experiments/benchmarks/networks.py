"""Networks beside their PyTorch references: compile time, and time per network pass.

    python -m experiments.benchmarks.networks --only adm --batch 1

Time: about a minute a network on 2 CPU cores, and up to 6 GB of memory. Full-size networks with
random weights, float32, both in one process and in turn, so that other work on the machine meets
both. PyTorch runs eagerly on CPU. A pass is one call of the network at the batch, divided by the
batch. It needs the `test` extra.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from jaxsearch.models import adm, autoencoder_kl, dit, unet2d_condition
from jaxsearch.models.loading import functional, parameters


class Pair(NamedTuple):
    """A network and its reference, on the same inputs."""

    build: Callable[[nnx.Rngs], nnx.Module]
    inputs: Callable[[int, np.random.Generator], tuple[np.ndarray, ...]]  # channels last
    reference: Callable[[], Callable[..., Any]]  # takes the same inputs as PyTorch tensors
    method: str = "__call__"


def _adm() -> Pair:
    config = adm.AdmConfig(image_size=64, num_classes=1000)

    def inputs(batch: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        x = rng.normal(size=(batch, 64, 64, 3)).astype(np.float32)
        return x, np.full((batch,), 0.3, np.float32), np.full((batch,), 7, np.int32)

    def reference() -> Callable[..., Any]:
        from diffusers import UNet2DModel

        attending = 3
        model: Any = UNet2DModel(
            sample_size=64,
            layers_per_block=3,
            block_out_channels=(192, 384, 576, 768),
            down_block_types=("ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * attending),
            up_block_types=(*["AttnUpBlock2D"] * attending, "ResnetUpsampleBlock2D"),
            downsample_type="resnet",
            upsample_type="resnet",
            attn_norm_num_groups=32,
            attention_head_dim=64,
            resnet_time_scale_shift="scale_shift",
            num_class_embeds=1000,
        )
        return lambda x, t, label: model(x.permute(0, 3, 1, 2), t, class_labels=label).sample

    return Pair(adm.build(config), inputs, reference)


def _dit() -> Pair:
    config = dit.DiTConfig()

    def inputs(batch: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        x = rng.normal(size=(batch, 32, 32, 4)).astype(np.float32)
        return x, np.full((batch,), 500.0, np.float32), np.full((batch,), 7, np.int32)

    def reference() -> Callable[..., Any]:
        from diffusers import DiTTransformer2DModel

        model: Any = DiTTransformer2DModel(
            num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8,
            num_layers=28, sample_size=32, patch_size=2, num_embeds_ada_norm=1000,
        )  # fmt: skip
        return lambda x, t, label: model(x.permute(0, 3, 1, 2), t, label).sample

    return Pair(lambda rngs: dit.DiT(config, rngs=rngs), inputs, reference)


def _decoder() -> Pair:
    config = autoencoder_kl.AutoencoderConfig()

    def inputs(batch: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        return (rng.normal(size=(batch, 32, 32, 4)).astype(np.float32),)

    def reference() -> Callable[..., Any]:
        from diffusers import AutoencoderKL

        model: Any = AutoencoderKL(
            block_out_channels=config.block_out_channels, layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        return lambda latents: model.decode(latents.permute(0, 3, 1, 2)).sample

    return Pair(
        lambda rngs: autoencoder_kl.AutoencoderKL(config, with_encoder=False, rngs=rngs),
        inputs,
        reference,
        "decode",
    )


def _unet() -> Pair:
    config = unet2d_condition.UNetConfig()

    def inputs(batch: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        x = rng.normal(size=(batch, 64, 64, 4)).astype(np.float32)
        text = rng.normal(size=(batch, 77, 768)).astype(np.float32)
        return x, np.full((batch,), 500.0, np.float32), text

    def reference() -> Callable[..., Any]:
        from diffusers import UNet2DConditionModel

        model: Any = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        return lambda x, t, text: model(x.permute(0, 3, 1, 2), t, text).sample

    return Pair(lambda rngs: unet2d_condition.UNet2DCondition(config, rngs=rngs), inputs, reference)


NETWORKS: dict[str, Callable[[], Pair]] = {
    "adm": _adm,
    "dit": _dit,
    "sd-unet": _unet,
    "sd-decoder": _decoder,
}


def main(batch: int = 1, repeats: int = 3, only: tuple[str, ...] = tuple(NETWORKS)) -> None:
    """Prints the table.

    Args:
        batch: latents of a call.
        repeats: timed calls of each; the fastest counts.
        only: which networks.
    """
    import torch

    table = Table(
        title=f"batch {batch}, float32, {jax.devices()[0].device_kind}, {torch.get_num_threads()} "
        f"threads, jax {jax.__version__}, torch {torch.__version__}"
    )
    for column in (
        "network",
        "parameters",
        "compile s",
        "s per pass",
        "PyTorch s per pass",
        "ratio",
    ):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name in only:
        pair = NETWORKS[name]()
        arrays = pair.inputs(batch, np.random.default_rng(0))
        weights = parameters(pair.build(nnx.Rngs(0)))
        apply = jax.jit(functional(pair.build, pair.method))
        on_device = [jnp.asarray(array) for array in arrays]
        begin = time.perf_counter()
        compiled = apply.lower(weights, *on_device).compile()
        compile_seconds = time.perf_counter() - begin
        reference, tensors = pair.reference(), [torch.from_numpy(array) for array in arrays]
        ours, theirs = [], []
        with torch.no_grad():
            for turn in range(repeats + 1):  # the first of each warms up
                begin = time.perf_counter()
                jax.block_until_ready(compiled(weights, *on_device))
                between = time.perf_counter()
                reference(*tensors)
                if turn:
                    ours.append(between - begin)
                    theirs.append(time.perf_counter() - between)
        number = sum(leaf.size for leaf in jax.tree.leaves(weights))
        mine, other = min(ours) / batch, min(theirs) / batch
        table.add_row(
            name, f"{number:,}", f"{compile_seconds:.1f}", f"{mine:.2f}", f"{other:.2f}",
            f"{mine / other:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    auto_cli(main)
