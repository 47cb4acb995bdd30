"""Weights are read onto the devices that share them, and nobody ever has the whole."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from jaxsearch.models import placing, stored
from jaxsearch.models.loading import abstract_module, functional, loaded_once
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.models.stored import joined, stored_safetensors
from jaxsearch.parallel import divided, loading_onto, particle_mesh
from jaxsearch.parallel.devices import part_of

SIZE, BLOCKS = 64, 3


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.up = nnx.Linear(SIZE, 2 * SIZE, param_dtype=jnp.bfloat16, rngs=rngs)
        self.down = nnx.Linear(2 * SIZE, SIZE, rngs=rngs)

    def __call__(self, x):
        h = jnp.tanh(self.up(x.astype(jnp.bfloat16)))
        return x + self.down(h.astype(x.dtype))


class Network(nnx.Module):
    """Kernels that are divided by what goes in and by what comes out, in a stack and alone."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(SIZE, 2 * SIZE, (3, 3), rngs=rngs)
        self.embed = nnx.Embed(256, SIZE, rngs=rngs)
        self.qkv = nnx.Linear(SIZE, 3 * SIZE, rngs=rngs)
        self.blocks = Stacked(Block, BLOCKS, rngs=rngs)
        self.odd = nnx.Linear(67, 61, rngs=rngs)
        self.norm = nnx.LayerNorm(SIZE, rngs=rngs)
        self.out = nnx.Linear(2 * SIZE, SIZE, rngs=rngs)

    def __call__(self, x):
        return self.blocks(self.norm(x))


def _stored(tmp_path):
    shapes = {
        "conv.weight": (2 * SIZE, SIZE, 3, 3),
        "conv.bias": (2 * SIZE,),
        "embed.weight": (256, SIZE),
        **{f"{part}.weight": (SIZE, SIZE) for part in "qkv"},
        "qkv.bias": (3 * SIZE,),
        "odd.weight": (61, 67),
        "odd.bias": (61,),
        "norm.weight": (SIZE,),
        "norm.bias": (SIZE,),
        "out.weight": (SIZE, 2 * SIZE, 1, 1),
        "out.bias": (SIZE,),
    }
    for i in range(BLOCKS):
        shapes |= {
            f"blocks.{i}.up.weight": (2 * SIZE, SIZE),
            f"blocks.{i}.up.bias": (2 * SIZE,),
            f"blocks.{i}.down.weight": (SIZE, 2 * SIZE),
            f"blocks.{i}.down.bias": (SIZE,),
        }
    rng = np.random.default_rng(0)
    whole = {key: rng.normal(size=shape).astype(np.float16) for key, shape in shapes.items()}
    # The file's own types differ from those that numbers become.
    whole["embed.weight"] = whole["embed.weight"].astype(ml_dtypes.bfloat16)
    save_file(whole, tmp_path / "weights.safetensors")
    tensors = stored_safetensors(tmp_path / "weights.safetensors")
    tensors["qkv.weight"] = joined([tensors.pop(f"{part}.weight") for part in "qkv"])
    return tensors


def _load(tensors):
    return load_state_dict(abstract_module(Network), tensors, source="weights.safetensors")


@pytest.mark.parametrize(("devices", "model"), [(8, 8), (8, 4), (2, 2)])
def test_parts_are_read_where_they_belong(tmp_path, monkeypatch, devices, model):
    """Kills: weights read whole and divided afterwards, tensor by tensor or all together; parts of
    a stack or of a transposed kernel mixed up; a part that is converted before it is cut out.
    """
    tensors, mesh = _stored(tmp_path), particle_mesh(devices, model=model)
    alone = _load(tensors)
    share = {}  # bytes that a device may have of an array, by its shape and type
    for leaf in jax.tree.leaves(alone):
        part = part_of(leaf, mesh).shard_shape(leaf.shape)
        share[leaf.shape, leaf.dtype] = math.prod(part) * leaf.dtype.itemsize
    whole = {shape: math.prod(shape) * dtype.itemsize for shape, dtype in share}
    assert sum(share.values()) < 1.3 / model * sum(whole.values())

    held, read = [], []
    put, single = jax.device_put, stored._InFile.__getitem__

    def watched_put(value, *where):
        result = put(value, *where)
        held.extend((value.shape, shard.data.nbytes) for shard in result.addressable_shards)
        return result

    def watched_read(self, index):
        result = single(self, index)
        read.append((self._key, result.nbytes))
        return result

    monkeypatch.setattr(placing.jax, "device_put", watched_put)
    monkeypatch.setattr(placing.jnp, "asarray", None)  # it would take all of it
    monkeypatch.setattr(stored._InFile, "__getitem__", watched_read)
    before = {id(array) for array in jax.live_arrays()}
    with loading_onto(mesh):
        found = _load(tensors)
    monkeypatch.undo()

    largest = max(share.values())
    assert max(size for _, size in held) == largest < max(whole.values()) / model * 1.01
    for array in jax.live_arrays():
        if id(array) not in before:
            assert max(shard.data.nbytes for shard in array.addressable_shards) <= largest
    for key, size in read:
        if key in ("conv.weight", "embed.weight", "out.weight", "blocks.0.down.weight"):
            assert size == np.asarray(tensors[key]).nbytes / model, key
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(found),
        jax.tree.leaves(divided(alone, mesh)),
        strict=True,
    ):
        assert one.sharding == other.sharding, path
        assert one.dtype == other.dtype, path
        for mine, theirs in zip(one.addressable_shards, other.addressable_shards, strict=True):
            assert mine.device == theirs.device
            np.testing.assert_array_equal(mine.data, theirs.data, err_msg=str(path))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, SIZE)), jnp.float32)
    program = jax.jit(functional(Network))
    np.testing.assert_array_equal(program(found, x), program(divided(alone, mesh), x))
    np.testing.assert_allclose(program(found, x), program(alone, x), rtol=0.02, atol=0.02)


def test_numbers_are_looked_at_where_they_are_read(tmp_path):
    tensors = _stored(tmp_path)
    bad = np.zeros((SIZE, 2 * SIZE), np.float32)
    bad[-1, -1] = np.nan
    tensors["blocks.2.down.weight"] = bad
    with (
        loading_onto(particle_mesh(8, model=8)),
        pytest.raises(ValueError, match=r"blocks.2.down.weight has values that are not finite"),
    ):
        _load(tensors)


def test_where_nothing_is_shared_weights_go_to_the_default_device(tmp_path):
    tensors = _stored(tmp_path)
    for mesh in (None, particle_mesh(8)):
        with loading_onto(mesh):
            for leaf in jax.tree.leaves(_load(tensors)):
                assert leaf.devices() == {jax.devices()[0]}


def test_shapes_alone_need_no_file(tmp_path):
    with placing.placing(placing.SHAPES):
        shapes = _load(stored_safetensors(tmp_path / "absent.safetensors"))
    wanted = nnx.to_pure_dict(nnx.state(abstract_module(Network)))
    assert jax.tree.leaves(shapes) == jax.tree.leaves(wanted)
    assert jax.tree.structure(shapes) == jax.tree.structure(wanted)


def test_what_is_kept_is_kept_for_its_place(tmp_path):
    """Kills: weights of one mesh given to another, or to no mesh at all."""
    calls = []

    @loaded_once
    def load(path):
        calls.append(path)
        return object()

    (tmp_path / "file").write_text("weights")
    meshes = [None, particle_mesh(8), particle_mesh(8, model=4), particle_mesh(4, model=4)]
    found = []
    for mesh in [*meshes, *meshes]:
        with loading_onto(mesh):
            found.append(load(tmp_path / "file"))
    assert found[:4] == found[4:]
    assert found[0] is found[1]  # on the default device, both
    assert len(set(map(id, found))) == len(calls) == 3
