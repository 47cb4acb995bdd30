"""State dicts of PyTorch become parameters, and one that does not fit is refused by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsearch.models.loading import functional, parameters
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.state_dict import load_state_dict


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x, shift):
        return x + jnp.tanh(self.linear(x)) + shift


class Network(nnx.Module):
    """Every kind of layer, and blocks in a stack."""

    def __init__(self, rngs: nnx.Rngs, dtype=jnp.float32) -> None:
        self.layers = nnx.List(
            [nnx.Conv(3, 4, (3, 3), rngs=rngs), jax.nn.silu, nnx.GroupNorm(4, 2, rngs=rngs)]
        )
        self.embed = nnx.Embed(5, 4, rngs=rngs)
        self.blocks = Stacked(Block, 3, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.gate = nnx.Param(jnp.ones((1, 2)))
        self.out = nnx.Linear(4, 2, use_bias=False, param_dtype=dtype, rngs=rngs)

    def __call__(self, x, label):
        for layer in self.layers:
            x = layer(x)
        x = self.norm(self.blocks(jnp.mean(x, axis=(1, 2)), self.embed(label)))
        return self.out(x) * self.gate[...]


SHAPES = {
    "layers.0.weight": (4, 3, 3, 3),
    "layers.0.bias": (4,),
    "layers.2.weight": (4,),
    "layers.2.bias": (4,),
    "embed.weight": (5, 4),
    **{f"blocks.{i}.linear.weight": (4, 4) for i in range(3)},
    **{f"blocks.{i}.linear.bias": (4,) for i in range(3)},
    "norm.weight": (4,),
    "norm.bias": (4,),
    "gate": (1, 2),
    "out.weight": (2, 4, 1, 1),
}


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in SHAPES.items()}


def load(tensors, dtype=jnp.float32):
    abstract = nnx.eval_shape(lambda: Network(nnx.Rngs(0), dtype))
    return load_state_dict(abstract, tensors, source="weights.pt")


def test_a_network_computes_as_pytorch_does(tensors):
    torch = pytest.importorskip("torch")
    functions = torch.nn.functional
    t = {key: torch.from_numpy(value) for key, value in tensors.items()}
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype(np.float32)
    label = np.array([3, 0])

    h = torch.from_numpy(x).permute(0, 3, 1, 2)
    h = functions.conv2d(h, t["layers.0.weight"], t["layers.0.bias"], padding=1)
    h = functions.group_norm(functions.silu(h), 2, t["layers.2.weight"], t["layers.2.bias"], 1e-6)
    h = h.mean(dim=(2, 3))
    for i in range(3):
        moved = functions.linear(h, t[f"blocks.{i}.linear.weight"], t[f"blocks.{i}.linear.bias"])
        h = h + torch.tanh(moved) + t["embed.weight"][torch.from_numpy(label)]
    h = functions.layer_norm(h, (4,), t["norm.weight"], t["norm.bias"], 1e-6)
    wanted = functions.linear(h, t["out.weight"][..., 0, 0]) * t["gate"]

    found = functional(Network)(load(tensors), jnp.asarray(x), jnp.asarray(label))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=2e-5, atol=2e-5)


def test_blocks_in_a_stack_have_the_same_gradient_when_computed_again():
    x, shift = jnp.ones((2, 4)), jnp.zeros((2, 4))
    kept, again = (Stacked(Block, 3, remat=remat, rngs=nnx.Rngs(0)) for remat in (False, True))
    slopes = [jax.grad(lambda x, b=b: jnp.sum(b(x, shift)))(x) for b in (kept, again)]
    np.testing.assert_allclose(*slopes, rtol=1e-6)
    assert "remat" in str(jax.make_jaxpr(lambda x: again(x, shift))(x))
    assert "remat" not in str(jax.make_jaxpr(lambda x: kept(x, shift))(x))


def test_integers_are_no_weights(tensors):
    tensors["gate"] = np.ones((1, 2), np.int32)
    with pytest.raises(ValueError, match=r"weights.pt: gate is stored as int32, not as floats"):
        load(tensors)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_is_not_finite_is_no_weight(tensors, value):
    tensors["blocks.1.linear.bias"][2] = value
    with pytest.raises(ValueError, match=r"blocks.1.linear.bias has values that are not finite"):
        load(tensors)


def test_blocks_differ(tensors):
    stacked = load(tensors)["blocks"]["block"]["linear"]["kernel"]
    for i in range(3):
        np.testing.assert_array_equal(stacked[i], tensors[f"blocks.{i}.linear.weight"].T)


def test_each_tensor_becomes_what_the_module_has(tensors):
    params = load(tensors, jnp.bfloat16)
    assert params["out"]["kernel"].dtype == jnp.bfloat16
    assert params["norm"]["scale"].dtype == jnp.float32
    wanted = jax.tree.map(lambda leaf: leaf.shape, parameters(Network(nnx.Rngs(0))))
    assert jax.tree.map(lambda leaf: leaf.shape, params) == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blocks.1.linear.bias"), "missing: blocks.1.linear.bias"),
        (lambda t: t.update({"blocks.3.linear.bias": t["gate"]}), "unknown: blocks.3.linear.bias"),
        (lambda t: t.update(gate=t["norm.bias"]), r"mis-shaped: gate \(4,\) instead of \(1, 2\)"),
        (
            lambda t: t.update({"layers.0.weight": t["layers.0.weight"][:, :2]}),
            r"layers.0.weight \(4, 2, 3, 3\) instead of \(4, 3, 3, 3\)",
        ),
        (
            lambda t: t.update({"out.weight": t["layers.0.weight"][:2]}),
            r"out.weight \(2, 3, 3, 3\) instead of \(2, 4\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(tensors, change, message):
    change(tensors)
    with pytest.raises(ValueError, match=message) as caught:
        load(tensors)
    assert str(caught.value).startswith("weights.pt does not hold the weights of Network; ")
