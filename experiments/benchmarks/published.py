"""Published models at their full size, in bfloat16: shapes, of which no weight is there.

What the command has in float32 whatever it is told (Stable Diffusion's encoders of texts, and
SDXL's decoder) is so here.

What plans on paper are made of (`pods.py`, `plans.py`). A family joins by a function and one line
in `FAMILIES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.process import karras, shifted, trained_steps, variance_preserving
from jaxsearch.core.types import (
    Array,
    Decoder,
    Denoiser,
    Objective,
    Problem,
    PyTree,
    Solver,
    Verifier,
)
from jaxsearch.core.value import solver_estimate
from jaxsearch.models.adm import Adm, AdmConfig
from jaxsearch.models.autoencoder_kl import AutoencoderConfig, AutoencoderKL, autoencoder_decoder
from jaxsearch.models.clip_text import ClipText, ClipTextConfig
from jaxsearch.models.clip_vision import ClipVision, ClipVisionConfig
from jaxsearch.models.dit import DiT, DiTConfig, dit_denoiser
from jaxsearch.models.edm import edm_denoiser
from jaxsearch.models.epsilon import epsilon_denoiser, v_denoiser
from jaxsearch.models.flux import Flux, FluxConfig, GuidedText, flux_network
from jaxsearch.models.guidance import classifier_free_guidance
from jaxsearch.models.loading import abstract_module, functional, parameters
from jaxsearch.models.mmdit import MMDiT, MMDiTConfig, PooledText, mmdit_network, placed
from jaxsearch.models.pixart import MaskedText, PixArt, PixArtConfig, pixart_network
from jaxsearch.models.rectified_flow import rectified_flow_denoiser
from jaxsearch.models.sit import sit_denoiser
from jaxsearch.models.song import Song, SongConfig
from jaxsearch.models.t5_encoder import T5Encoder, T5EncoderConfig
from jaxsearch.models.unet2d_condition import (
    SizedText,
    UNet2DCondition,
    UNetConfig,
    unet_network,
)
from jaxsearch.solvers import first_order, heun
from jaxsearch.zoo.edm import decoder as pixels


class Published(NamedTuple):
    """A model as it is searched."""

    denoiser: Denoiser
    solver: Solver
    cond: PyTree  # of one prompt
    decoder: Decoder
    encoders: PyTree = ()  # weights of what reads texts, before a search

    @property
    def problem(self) -> Problem:
        """It, judged by CLIP ViT-L/14."""
        return Problem(
            denoiser=self.denoiser,
            objective=Objective(decoder=self.decoder, verifiers=(clip(),)),
            solver=self.solver,
            value=solver_estimate(),
        )


def shapes(build: Callable[[nnx.Rngs], nnx.Module], dtype: Any = jnp.bfloat16) -> PyTree:
    """The weights of a network, of which nothing but shapes is there."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype),
        parameters(abstract_module(build)),
    )


def autoencoder(latent_channels: int, dtype: Any = jnp.bfloat16) -> Decoder:
    """Stable Diffusion's, of latents with so many channels."""
    config = AutoencoderConfig(latent_channels=latent_channels)
    weights = shapes(lambda rngs: AutoencoderKL(config, with_encoder=False, rngs=rngs), dtype)
    return autoencoder_decoder(config, weights, dtype=dtype)


def clip() -> Verifier:
    """The image side of CLIP ViT-L/14; the text side is done before a search."""
    config = ClipVisionConfig(
        patch_size=14, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16,
    )  # fmt: skip

    def build(rngs: nnx.Rngs) -> ClipVision:
        return ClipVision(config, dtype=jnp.bfloat16, rngs=rngs)

    encode = functional(build)

    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        small = jax.image.resize(images, (images.shape[0], 224, 224, 3), "bicubic")
        seen = encode(params, small)
        return jnp.mean(seen.reshape(seen.shape[0], -1), axis=1)

    return Verifier(name="clip_score", apply=apply, params=shapes(build))


def told(**leaves: tuple[int, ...]) -> dict[str, Array]:
    """Zeros of one prompt's condition."""
    return {name: jnp.zeros((1, *shape)) for name, shape in leaves.items()}


def clip_texts(dtype: Any = jnp.bfloat16, **changes: int | str) -> PyTree:
    """A text encoder of CLIP's; the default is ViT-L/14."""
    config = ClipTextConfig(**changes)  # type: ignore[arg-type]
    return shapes(lambda rngs: ClipText(config, rngs=rngs), dtype)


def clip_h() -> PyTree:
    """OpenCLIP ViT-H/14 as Stable Diffusion 2 has it."""
    return clip_texts(
        jnp.float32, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23,
        num_attention_heads=16, hidden_act="gelu",
    )  # fmt: skip


def clip_g(dtype: Any = jnp.bfloat16) -> PyTree:
    """OpenCLIP ViT-bigG/14, without its projection."""
    return clip_texts(
        dtype, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
        num_attention_heads=20, hidden_act="gelu",
    )  # fmt: skip


def t5() -> PyTree:
    """T5 XXL's encoder."""
    return shapes(lambda rngs: T5Encoder(T5EncoderConfig(), rngs=rngs))


def guided(plain: Denoiser, cond: PyTree, scale: float) -> Denoiser:
    """Guided away from what has the shape of a condition."""
    return classifier_free_guidance(plain, scale=scale, null=jax.tree.map(lambda x: x[0], cond))


# ---------------------------------------------------------------------------------------- families


def ddpmpp() -> Published:
    """EDM's DDPM++ for CIFAR-10, 32x32 pixels with classes, 18 steps of Heun."""
    config = SongConfig(image_size=32, channel_mult=(2, 2, 2), num_classes=10)
    weights = shapes(lambda rngs: Song(config, rngs=rngs))
    network = functional(lambda rngs: Song(config, dtype=jnp.bfloat16, rngs=rngs))
    denoiser = edm_denoiser(network, weights, shape=(32, 32, 3), sigma_data=0.5)
    solver = heun(karras(denoiser.process, num_steps=18))
    return Published(denoiser, solver, jnp.zeros((1,), jnp.int32), pixels())


def adm() -> Published:
    """ADM under EDM's preconditioning, ImageNet at 64x64 pixels, 18 steps of Heun."""
    config = AdmConfig(image_size=64, num_classes=1000)
    weights = shapes(lambda rngs: Adm(config, rngs=rngs))
    network = functional(lambda rngs: Adm(config, dtype=jnp.bfloat16, rngs=rngs))
    denoiser = edm_denoiser(network, weights, shape=(64, 64, 3), sigma_data=0.5)
    solver = heun(karras(denoiser.process, num_steps=18))
    return Published(denoiser, solver, jnp.zeros((1,), jnp.int32), pixels())


def dit() -> Published:
    """DiT-XL/2, 256x256 pixels, 50 steps."""
    config = DiTConfig()
    weights = shapes(lambda rngs: DiT(config, rngs=rngs))
    denoiser = dit_denoiser(config, weights, guidance=4.0, dtype=jnp.bfloat16)
    solver = first_order(trained_steps(denoiser.process, num_steps=50))
    return Published(denoiser, solver, jnp.zeros((1,), jnp.int32), autoencoder(4))


def sit() -> Published:
    """SiT-XL/2, 256x256 pixels, 50 steps."""
    config = DiTConfig()
    weights = shapes(lambda rngs: DiT(config, rngs=rngs))
    denoiser = sit_denoiser(config, weights, guidance=4.0, dtype=jnp.bfloat16)
    solver = first_order(shifted(denoiser.process, num_steps=50))
    return Published(denoiser, solver, jnp.zeros((1,), jnp.int32), autoencoder(4))


def stable_diffusion(config: UNetConfig, encoders: PyTree, *, v: bool) -> Published:
    """Stable Diffusion 1 or 2, guided, 50 steps."""
    weights = shapes(lambda rngs: UNet2DCondition(config, rngs=rngs))
    process = variance_preserving(beta_start=0.00085, beta_end=0.012, shape="scaled_linear")
    network = unet_network(config, dtype=jnp.bfloat16)
    shape = (config.sample_size, config.sample_size, config.in_channels)
    make = v_denoiser if v else epsilon_denoiser
    plain = make(network, weights, shape=shape, process=process)
    cond = jnp.zeros((1, 77, config.cross_attention_dim))
    solver = first_order(trained_steps(process, num_steps=50))
    return Published(guided(plain, cond, 7.5), solver, cond, autoencoder(4), encoders)


def sd1() -> Published:
    """Stable Diffusion 1.5, 512x512 pixels, 50 steps."""
    return stable_diffusion(UNetConfig(), clip_texts(jnp.float32), v=False)


def sd2() -> Published:
    """Stable Diffusion 2.1, 768x768 pixels, 50 steps."""
    config = UNetConfig(sample_size=96, cross_attention_dim=1024, num_heads=(5, 10, 20, 20))
    return stable_diffusion(config, clip_h(), v=True)


def sdxl() -> Published:
    """Stable Diffusion XL, 1024x1024 pixels, 30 steps."""
    config = UNetConfig(
        sample_size=128, block_out_channels=(320, 640, 1280), num_heads=(5, 10, 20),
        down_attends=(False, True, True), up_attends=(True, True, False),
        transformer_layers=(1, 2, 10), cross_attention_dim=2048, addition_time_embed_dim=256,
        pooled_features=1280,
    )  # fmt: skip
    weights = shapes(lambda rngs: UNet2DCondition(config, rngs=rngs))
    process = variance_preserving(beta_start=0.00085, beta_end=0.012, shape="scaled_linear")
    network = unet_network(config, dtype=jnp.bfloat16)
    plain = epsilon_denoiser(network, weights, shape=(128, 128, 4), process=process)
    cond = SizedText(**told(text=(77, 2048), pooled=(1280,), sizes=(6,)))
    solver = first_order(trained_steps(process, num_steps=30))
    encoders = (clip_texts(jnp.float32), clip_g(jnp.float32))
    decoder = autoencoder(4, jnp.float32)
    return Published(guided(plain, cond, 5.0), solver, cond, decoder, encoders)


def pixart() -> Published:
    """PixArt-Sigma, 1024x1024 pixels, 20 steps."""
    config = PixArtConfig()
    weights = shapes(lambda rngs: PixArt(config, rngs=rngs))
    process = variance_preserving(beta_start=0.0001, beta_end=0.02, shape="linear")
    network = pixart_network(config, dtype=jnp.bfloat16)
    side = config.sample_size
    plain = epsilon_denoiser(network, weights, shape=(side, side, 4), process=process)
    cond = MaskedText(jnp.zeros((1, 300, 4096)), jnp.ones((1, 300), bool))
    solver = first_order(trained_steps(process, num_steps=20))
    return Published(guided(plain, cond, 4.5), solver, cond, autoencoder(4), t5())


def flow(config: MMDiTConfig, guidance: float, steps: int) -> Published:
    """Stable Diffusion 3, 1024x1024 pixels."""
    whole = shapes(lambda rngs: MMDiT(config, rngs=rngs))
    weights = jax.eval_shape(lambda params: placed(params, config, 128, 128), whole)
    network = mmdit_network(config, dtype=jnp.bfloat16)
    plain = rectified_flow_denoiser(network, weights, shape=(128, 128, 16))
    cond = PooledText(**told(tokens=(333, 4096), pooled=(2048,)))
    solver = first_order(shifted(plain.process, num_steps=steps, shift=3.0))
    encoders = (clip_texts(), clip_g(), t5())
    return Published(guided(plain, cond, guidance), solver, cond, autoencoder(16), encoders)


def sd3() -> Published:
    """Stable Diffusion 3 medium, 28 steps."""
    return flow(MMDiTConfig(), 7.0, 28)


def sd35() -> Published:
    """Stable Diffusion 3.5 medium, 40 steps."""
    config = MMDiTConfig(
        pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm=True
    )
    return flow(config, 4.5, 40)


def flux() -> Published:
    """FLUX.1-dev, 1024x1024 pixels, 28 steps, its guidance distilled."""
    config = FluxConfig()
    weights = shapes(lambda rngs: Flux(config, rngs=rngs))
    network = flux_network(config, dtype=jnp.bfloat16)
    denoiser = rectified_flow_denoiser(network, weights, shape=(128, 128, 16))
    cond = GuidedText(**told(tokens=(512, 4096), pooled=(768,), guidance=()))
    solver = first_order(shifted(denoiser.process, num_steps=28, shift=math.exp(1.15)))
    return Published(denoiser, solver, cond, autoencoder(16), (clip_texts(), t5()))


FAMILIES: dict[str, Callable[[], Published]] = {
    "DDPM++ (EDM), 32": ddpmpp,
    "ADM (EDM), 64": adm,
    "DiT-XL/2, 256": dit,
    "SiT-XL/2, 256": sit,
    "SD 1.5, 512": sd1,
    "SD 2.1, 768": sd2,
    "SDXL, 1024": sdxl,
    "PixArt-Sigma, 1024": pixart,
    "SD 3 medium, 1024": sd3,
    "SD 3.5 medium, 1024": sd35,
    "FLUX.1-dev, 1024": flux,
}
