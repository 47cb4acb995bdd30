"""Operations counted on jaxprs, against known answers and PyTorch's own counter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxsearch.core.flops import count_flops
from jaxsearch.models import dit
from jaxsearch.models.folders import read_config
from jaxsearch.models.loading import abstract_module, functional, parameters
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.unet2d_condition import UNet2DCondition, unet_config


def shape(*sides: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sides, jnp.float32)


X, W = shape(3, 5), shape(5, 7)
ONE = 2 * 3 * 5 * 7


def twice(x, w):
    """[3, 5] by [5, 7] and back: two products."""
    return (x @ w) @ w.T


@pytest.mark.parametrize(
    ("function", "products"),
    [
        (lambda x, w: x @ w, 1),
        (lambda x, w: jnp.sum(jnp.exp(x)) + jnp.sum(w), 0),
        (jax.jit(twice), 2),
        (lambda x, w: jax.lax.scan(lambda c, _: (twice(c, w), None), x, None, length=6)[0], 12),
        (lambda x, w: jax.lax.fori_loop(0, 6, lambda i, c: twice(c, w), x), 12),
        (lambda x, w: jax.lax.while_loop(lambda c: c[0, 0] < 1, lambda c: twice(c, w), x), 2),
        (lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: twice(x, w), lambda: x), 2),
        (lambda x, w: jax.grad(lambda x: jnp.sum(jnp.sin(x @ w)))(x), 2),
        (lambda x, w: jax.grad(lambda x: jnp.sum(jax.checkpoint(jnp.sin)(x @ w)))(x), 2),
        (lambda x, w: jax.nn.relu(x @ w), 1),
        (lambda x, w: jax.vmap(lambda row: row @ w)(x), 1),
        (lambda x, w: jnp.einsum("bik,bkj->bij", x[None], w[None]), 1),
    ],
)
def test_products(function, products):
    """Kills: the body of a loop counted once; both branches; a program of the derivative counted
    with the one that runs."""
    assert count_flops(function, X, W) == products * ONE


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, 2 * (9 * 9) * 8 * (4 * 3 * 3)),
        ({"window_strides": (2, 2)}, 2 * (5 * 5) * 8 * (4 * 3 * 3)),
        ({"feature_group_count": 4}, 2 * (9 * 9) * 8 * (1 * 3 * 3)),
        # Of the 17x17 pixels that the kernel meets three in four are zeros between the others.
        (
            {"lhs_dilation": (2, 2), "padding": [(1, 1), (1, 1)]},
            2 * (17 * 17) * 8 * (4 * 3 * 3) / 4,
        ),
    ],
)
def test_convolutions(settings, wanted):
    def convolve(x, kernel):
        given = {"window_strides": (1, 1), "padding": "SAME", **settings}
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **given)

    inner = 4 // settings.get("feature_group_count", 1)
    assert count_flops(convolve, shape(1, 9, 9, 4), shape(3, 3, inner, 8)) == wanted


def test_stacked_blocks_count_each():
    def build(num):
        return lambda rngs: Stacked(lambda rngs: nnx.Linear(6, 6, rngs=rngs), num, rngs=rngs)

    def operations(num):
        module = abstract_module(build(num))
        return count_flops(functional(build(num)), parameters(module), shape(2, 6))

    assert operations(5) == 5 * operations(1) == 5 * 2 * 2 * 6 * 6


def by_pytorch(model, *inputs) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops()


def ours(build, *inputs, method="__call__") -> float:
    return count_flops(functional(build, method), parameters(abstract_module(build)), *inputs)


def test_a_network_beside_pytorchs_counter(tmp_path, record_property):
    """Kills: multiply-adds counted once; attention or convolutions left out."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from diffusers.models.attention_processor import AttnProcessor

    from tests.models.test_unet2d_condition import theirs

    reference, folder = theirs(tmp_path, block_out_channels=(32, 64))
    reference.set_attn_processor(AttnProcessor())  # its counter does not see into CPU's kernel
    wanted = by_pytorch(reference, torch.zeros(1, 4, 8, 8), torch.zeros(1), torch.zeros(1, 5, 12))
    config = unet_config(read_config(folder))
    found = ours(
        lambda rngs: UNet2DCondition(config, rngs=rngs),
        *(shape(1, 8, 8, 4), shape(1), shape(1, 5, 12)),
    )
    record_property("ratio", found / wanted)
    assert found == wanted


def test_published_figures():
    """DiT-XL/2 on 256x256 pixels takes 118.64 G multiply-adds (Peebles & Xie 2023, table 9)."""
    found = ours(
        lambda rngs: dit.DiT(dit.DiTConfig(), rngs=rngs),
        shape(1, 32, 32, 4), shape(1), jax.ShapeDtypeStruct((1,), jnp.int32),
    )  # fmt: skip
    assert abs(found / 2 / 118.64e9 - 1) < 0.02
