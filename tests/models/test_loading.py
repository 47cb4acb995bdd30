"""Weights go into a file and come back, and a file that does not fit is refused by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxsearch.models.loading import (
    functional,
    load_safetensors,
    loaded_once,
    parameters,
    save_safetensors,
)


class Layer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(3, 3, rngs=rngs)
        self.count = nnx.Variable(jnp.arange(2, dtype=jnp.int32))


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([Layer(rngs) for _ in range(2)])

    def __call__(self, x):
        for layer in self.layers:
            x = layer.dense(x)
        return x

    def doubled(self, x):
        return 2 * self(x)


@pytest.fixture
def module() -> Network:
    return Network(nnx.Rngs(0))


@pytest.fixture
def path(tmp_path, module):
    save_safetensors(module, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def _abstract() -> nnx.Module:
    return nnx.eval_shape(lambda: Network(nnx.Rngs(1)))


def _rewrite(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_keys_are_attribute_paths(path):
    names = ("count", "dense.bias", "dense.kernel")
    assert sorted(load_file(path)) == [f"layers.{i}.{name}" for i in range(2) for name in names]


@pytest.mark.parametrize("abstract", [True, False])
def test_round_trip(path, module, abstract):
    params = load_safetensors(_abstract() if abstract else Network(nnx.Rngs(1)), path)
    jax.tree.map(np.testing.assert_array_equal, params, parameters(module))
    assert isinstance(jax.tree.leaves(params)[0], jax.Array)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_in_the_file_is_float32_in_memory(path, module, dtype):
    save_safetensors(parameters(module), path, dtype=dtype)
    assert load_file(path)["layers.0.dense.kernel"].dtype == dtype
    params = load_safetensors(_abstract(), path)
    kernel = params["layers"][0]["dense"]["kernel"]
    assert kernel.dtype == jnp.float32
    stored = np.asarray(module.layers[0].dense.kernel[...]).astype(dtype)
    np.testing.assert_array_equal(kernel, stored.astype(np.float32))
    assert params["layers"][0]["count"].dtype == jnp.int32


def test_functional_runs_the_module_and_its_methods(path, module):
    x = jnp.ones((2, 3))
    params = load_safetensors(_abstract(), path)
    np.testing.assert_allclose(functional(Network)(params, x), module(x), rtol=1e-6)
    np.testing.assert_allclose(functional(Network, "doubled")(params, x), 2 * module(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layers.1.dense.bias"), r"missing: layers\.1\.dense\.bias$"),
        (lambda t: t.update(head=np.ones(2)), "unknown: head$"),
        (
            lambda t: t.update({"layers.0.dense.bias": np.ones(4, np.float32)}),
            r"mis-shaped: layers\.0\.dense\.bias \(4,\) instead of \(3,\)$",
        ),
    ],
)
def test_refuses_other_tensors_by_name(path, change, message):
    _rewrite(path, change)
    with pytest.raises(ValueError, match=message) as error:
        load_safetensors(_abstract(), path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_says_all_that_is_wrong_and_stays_short(path):
    _rewrite(path, lambda t: (t.clear(), t.update({f"x{i}": np.ones(1) for i in range(20)})))
    with pytest.raises(ValueError, match=r"missing: .* and 1 more; unknown: .* and 15 more"):
        load_safetensors(_abstract(), path)


@pytest.mark.parametrize("content", [b"", b"not weights", None, "cut"])
def test_refuses_an_unreadable_file(path, content):
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7] if content == "cut" else content)
    with pytest.raises(ValueError, match=r"cannot read weights from .*\.safetensors") as error:
        load_safetensors(_abstract(), path)
    assert "\n" not in str(error.value)


def test_a_failed_write_leaves_the_old_file(path, module, monkeypatch):
    before = path.read_bytes()

    def fail(tensors, name, metadata):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("jaxsearch.models.loading.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_safetensors(module, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_loading_inside_a_traced_function_gives_arrays(path):
    kept = []

    @jax.jit
    def program(x):
        kept.append(load_safetensors(_abstract(), path))
        return x

    program(jnp.ones(()))
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(kept))


def test_what_was_loaded_is_kept_for_a_while(tmp_path):
    """Kills: settings or another version of a file taken for the same; all kept for ever."""
    calls = []

    @loaded_once
    def load(path, *, size=1):
        calls.append((path, size))
        return object()

    files = [tmp_path / str(number) for number in range(12)]
    for file in files:
        file.write_text("old")
    first = load(files[0])
    assert load(str(files[0])) is first
    assert load(files[0], size=2) is not first
    files[0].write_text("newer")
    assert load(files[0]) is not first
    for file in files[1:]:
        load(file)
    num = len(calls)
    load(files[-1])
    assert len(calls) == num
    load(files[0])
    assert len(calls) == num + 1
