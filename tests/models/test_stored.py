"""Tensors that stay in their file are what would have been read, part by part."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxsearch.models.stored import joined, stored_safetensors


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        "matrix": rng.normal(size=(6, 5)).astype(np.float32),
        "half": rng.normal(size=(3, 4, 2)).astype(ml_dtypes.bfloat16),
        "few": rng.normal(size=(2, 5)).astype(np.float16),
        "scalar": np.full((), 2.0, np.float32),
        "nothing": np.zeros((0, 3), np.float32),
        "count": np.arange(4),
    }


@pytest.fixture
def stored(tmp_path, tensors):
    save_file(tensors, tmp_path / "weights.safetensors")
    return stored_safetensors(tmp_path / "weights.safetensors")


def test_they_are_what_is_in_the_file(stored, tensors):
    assert stored.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert (stored[key].shape, stored[key].dtype) == (tensor.shape, tensor.dtype)
        assert stored[key].ndim == tensor.ndim
        np.testing.assert_array_equal(np.asarray(stored[key]), tensor)
        whole = tuple(slice(0, size) for size in tensor.shape)
        np.testing.assert_array_equal(stored[key][whole], tensor)
    part = (slice(1, 3), slice(2, 5))
    np.testing.assert_array_equal(stored["matrix"][part], tensors["matrix"][part])
    part = (slice(0, 2), slice(3, 4), slice(0, 1))
    np.testing.assert_array_equal(stored["half"][part], tensors["half"][part])


@pytest.mark.parametrize("rows", [(0, 12), (0, 3), (5, 7), (7, 12), (6, 12), (0, 6)])
def test_joined_ones_are_one_after_the_other(stored, tensors, rows):
    """Kills: a part that is left out at a seam; parts counted from the whole's beginning."""
    both = joined([stored["matrix"], stored["matrix"]])
    wanted = np.concatenate([tensors["matrix"]] * 2)
    assert both.shape == (12, 5)
    np.testing.assert_array_equal(np.asarray(both), wanted)
    part = (slice(*rows), slice(1, 4))
    np.testing.assert_array_equal(both[part], wanted[part])
    assert isinstance(joined([tensors["matrix"]] * 2), np.ndarray)


def test_a_file_that_cannot_be_read_is_named(tmp_path, stored):
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"cannot read weights from .*weights.safetensors"):
        np.asarray(stored["matrix"])
    with pytest.raises(ValueError, match=r"cannot read weights from .*weights.safetensors"):
        stored_safetensors(tmp_path / "weights.safetensors")
    (tmp_path / "weights.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"cannot read weights from .*weights.safetensors"):
        stored_safetensors(tmp_path / "weights.safetensors")
