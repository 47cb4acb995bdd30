"""ADM's classifier against the equations of Dhariwal & Nichol 2021, written out in PyTorch."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsearch.models.adm import AdmConfig
from jaxsearch.models.adm_classifier import PUBLISHED, build, from_guided_diffusion
from jaxsearch.models.loading import abstract_module, functional
from jaxsearch.models.pickles import read_state_dict
from jaxsearch.models.state_dict import load_state_dict

SMALL = AdmConfig(
    image_size=16, out_channels=7, model_channels=32, channel_mult=(1, 2, 2), num_res_blocks=1,
    attention_resolutions=(8, 4), head_channels=16,
)  # fmt: skip
FLAT = dataclasses.replace(
    SMALL, image_size=12, channel_mult=(2,), num_res_blocks=1, attention_resolutions=(12,)
)
T = np.array([0.0, 3.0, 721.0], np.float32)


class Reference:
    """Random weights under guided-diffusion's keys, and what is computed with them in order."""

    def __init__(self, config: AdmConfig) -> None:
        self.config, self.rng = config, np.random.default_rng(0)
        self.weights: dict[str, np.ndarray] = {}
        self.plan: list[tuple[str, str]] = []  # kind and name of each layer
        width, embedding = config.model_channels, 4 * config.model_channels
        self._layer("time_embed.0", embedding, width)
        self._layer("time_embed.2", embedding, embedding)
        h, place = config.channel_mult[0] * width, 1
        self._layer("input_blocks.0.0", h, config.in_channels, 3, 3)
        for level, mult in enumerate(config.channel_mult):
            if level:
                self._residual(f"input_blocks.{place}.0", h, h, "down")
                place += 1
            for _ in range(config.num_res_blocks):
                self._residual(f"input_blocks.{place}.0", h, mult * width)
                h = mult * width
                if config.image_size >> level in config.attention_resolutions:
                    self._attention(f"input_blocks.{place}.1", h)
                place += 1
        self._residual("middle_block.0", h, h)
        self._attention("middle_block.1", h)
        self._residual("middle_block.2", h, h)
        side = config.image_size >> (len(config.channel_mult) - 1)
        self._layer("out.0", h)
        self.weights["out.2.positional_embedding"] = self._random(h, side**2 + 1)
        self._layer("out.2.qkv_proj", 3 * h, h, 1)
        self._layer("out.2.c_proj", config.out_channels, h, 1)

    def _random(self, *shape, size=0.5):
        return (size * self.rng.normal(size=shape)).astype(np.float32)

    def _layer(self, name, *shape):
        fan_in = math.prod(shape[1:])
        weight = self._random(*shape, size=fan_in**-0.5)
        self.weights[f"{name}.weight"] = weight + np.float32(len(shape) == 1)
        self.weights[f"{name}.bias"] = self._random(shape[0])

    def _residual(self, name, inner, outer, kind="residual"):
        self._layer(f"{name}.in_layers.0", inner)
        self._layer(f"{name}.in_layers.2", outer, inner, 3, 3)
        self._layer(f"{name}.emb_layers.1", 2 * outer, 4 * self.config.model_channels)
        self._layer(f"{name}.out_layers.0", outer)
        self._layer(f"{name}.out_layers.3", outer, outer, 3, 3)
        if inner != outer:
            self._layer(f"{name}.skip_connection", outer, inner, 1, 1)
        self.plan.append((kind, name))

    def _attention(self, name, channels):
        self._layer(f"{name}.norm", channels)
        self._layer(f"{name}.qkv", 3 * channels, channels, 1)
        self._layer(f"{name}.proj_out", channels, channels, 1)
        self.plan.append(("attention", name))

    # Computing, in PyTorch.

    def _of(self, name):
        return self.t[f"{name}.weight"], self.t[f"{name}.bias"]

    def _norm(self, x, name):
        return self.f.group_norm(x, 32, *self._of(name), 1e-5)

    def _block(self, x, name, embedding, down):
        def halved(x):
            return self.f.avg_pool2d(x, 2) if down else x

        h = halved(self.f.silu(self._norm(x, f"{name}.in_layers.0")))
        h = self.f.conv2d(h, *self._of(f"{name}.in_layers.2"), padding=1)
        moved = self.f.linear(self.f.silu(embedding), *self._of(f"{name}.emb_layers.1"))
        scale, shift = moved[:, :, None, None].chunk(2, dim=1)
        h = self._norm(h, f"{name}.out_layers.0") * (1 + scale) + shift
        h = self.f.conv2d(self.f.silu(h), *self._of(f"{name}.out_layers.3"), padding=1)
        x = halved(x)
        skip = f"{name}.skip_connection"
        return h + (self.f.conv2d(x, *self._of(skip)) if f"{skip}.weight" in self.t else x)

    def _attend(self, x, name):
        """Queries, keys and values of each head stand together."""
        n, c = x.shape[:2]
        qkv = self.f.conv1d(self._norm(x, f"{name}.norm").flatten(2), *self._of(f"{name}.qkv"))
        q, k, v = qkv.reshape(n, -1, 3, self.config.head_channels, qkv.shape[-1]).unbind(2)
        read = self._read(q, k, v).reshape(n, c, -1)
        return x + self.f.conv1d(read, *self._of(f"{name}.proj_out")).reshape(x.shape)

    def _read(self, q, k, v):
        weight = self.torch.einsum("nhcq,nhck->nhqk", q, k) / math.sqrt(q.shape[2])
        return self.torch.einsum("nhqk,nhck->nhcq", weight.softmax(dim=-1), v)

    def _pool(self, x):
        """All queries stand before all keys, and those before all values."""
        pixels = x.flatten(2)
        places = self.torch.cat([pixels.mean(dim=2, keepdim=True), pixels], dim=2)
        places = places + self.t["out.2.positional_embedding"][None]
        n, c, length = places.shape
        qkv = self.f.conv1d(places, *self._of("out.2.qkv_proj"))
        q, k, v = qkv.reshape(n, 3, -1, self.config.head_channels, length).unbind(1)
        read = self._read(q, k, v).reshape(n, c, length)
        return self.f.conv1d(read, *self._of("out.2.c_proj"))[:, :, 0]

    def __call__(self, torch, x, times):
        self.torch, self.f = torch, torch.nn.functional
        self.t = {key: torch.from_numpy(value) for key, value in self.weights.items()}
        half = self.config.model_channels // 2
        angles = torch.from_numpy(times)[:, None] * 10_000 ** (-torch.arange(half) / half)[None]
        embedding = self.f.linear(
            torch.cat([angles.cos(), angles.sin()], dim=1), *self._of("time_embed.0")
        )
        embedding = self.f.linear(self.f.silu(embedding), *self._of("time_embed.2"))
        h = torch.from_numpy(x).permute(0, 3, 1, 2)
        h = self.f.conv2d(h, *self._of("input_blocks.0.0"), padding=1)
        for kind, name in self.plan:
            attends = kind == "attention"
            h = (
                self._attend(h, name)
                if attends
                else self._block(h, name, embedding, kind == "down")
            )
        return self._pool(self.f.silu(self._norm(h, "out.0"))).numpy()


@pytest.fixture(scope="module", params=[SMALL, FLAT], ids=["small", "flat"])
def case(request, tmp_path_factory):
    """A config, the published file, inputs, and what the equations say of them."""
    torch = pytest.importorskip("torch")
    reference = Reference(request.param)
    path = tmp_path_factory.mktemp("adm") / "64x64_classifier.pt"
    torch.save({key: torch.from_numpy(one) for key, one in reference.weights.items()}, path)
    side = request.param.image_size
    x = np.random.default_rng(1).normal(size=(len(T), side, side, 3)).astype(np.float32)
    return request.param, path, x, reference(torch, x, T)


def applied(config, path, x, dtype=jnp.float32):
    make = build(config, dtype)
    abstract = abstract_module(make)
    tensors = from_guided_diffusion(read_state_dict(path), config)
    params = load_state_dict(abstract, tensors, source=path)
    return jax.jit(functional(make))(params, jnp.asarray(x), jnp.asarray(T))


def error(found, wanted):
    return np.max(np.abs(np.asarray(found) - wanted)) / np.std(wanted)


def test_it_computes_what_the_equations_say(case):
    """Kills: one order of heads for both attentions; the mean last; no positions; other times."""
    config, path, x, wanted = case
    assert error(applied(config, path, x), wanted) < 2e-5


def test_half_precision_stays_near(case):
    config, path, x, wanted = case
    found = applied(config, path, x, jnp.bfloat16)
    assert found.dtype == jnp.float32
    assert 1e-4 < error(found, wanted) < 0.15


def test_the_published_size():
    for name, number in (("64x64_classifier", 65_438_568), ("256x256_classifier", 54_096_360)):
        abstract = abstract_module(build(PUBLISHED[name]))
        assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract))) == number


def test_other_shapes_are_refused_by_name(case):
    config, path, *_ = case
    other = dataclasses.replace(config, head_channels=32, model_channels=64)
    with pytest.raises(ValueError, match=r"classifier.pt does not hold the weights of AdmClass"):
        applied(other, path, np.zeros((3, 16, 16, 3), np.float32))
