"""Tensors that stay in their file until a part of them is wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxsearch.models.placing import Index, shapes_alone


class Tensor(Protocol):
    """What a state dict maps its keys to: an array of NumPy, or one that is still in its file.

    To NumPy both are arrays: what computes with it reads all of it.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is stored."""

    @property
    def ndim(self) -> int:
        """The number of its axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As it is stored."""

    def __getitem__(self, index: Any, /) -> Any:
        """A part of it, by a slice for each axis."""

    def __array__(self) -> np.ndarray:
        """All of it."""


class _InFile:
    """A tensor of a safetensors file.

    The file is opened for each part and closed again: what has been read of an open one counts as
    memory of the process.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self._path, self._key = path, key
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)

    def __getitem__(self, index: Index) -> np.ndarray:
        try:
            with safe_open(self._path, "numpy") as file:
                if not all(self.shape):  # of nothing there are no parts
                    return file.get_tensor(self._key)[index]
                return file.get_slice(self._key)[index if self.ndim else ...]
        except _ERRORS as error:
            raise _unreadable(self._path, error) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy  # it is new in any case
        return np.asarray(self[tuple(slice(0, size) for size in self.shape)], dtype)


class _Joined:
    """Tensors after each other along their first axis."""

    def __init__(self, parts: Sequence[Tensor]) -> None:
        first = parts[0]
        self._parts, self.ndim, self.dtype = tuple(parts), first.ndim, first.dtype
        self.shape = (sum(part.shape[0] for part in parts), *first.shape[1:])

    def __getitem__(self, index: Index) -> np.ndarray:
        first, rest = index[0], index[1:]
        begin, end, _ = first.indices(self.shape[0])
        found, at = [], 0
        for part in self._parts:
            low, high = max(begin - at, 0), min(end - at, part.shape[0])
            if low < high:
                found.append(part[(slice(low, high), *rest)])
            at += part.shape[0]
        return np.concatenate(found)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return np.asarray(np.concatenate([np.asarray(part) for part in self._parts]), dtype)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors after each other along their first axis; their other sides are equal.

    What is in a file stays there.
    """
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([np.asarray(part) for part in parts])
    return _Joined(parts)


def stored_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file by key, of which none is read yet.

    Where shapes alone are wanted (`placing`) there are none, and there need be no file.

    Raises:
        ValueError: if it cannot be read. The message names it.
    """
    if shapes_alone():
        return {}
    try:
        with safe_open(path, "numpy") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            return {
                key: _InFile(path, key, tuple(one.get_shape()), _DTYPES[one.get_dtype()])
                for key, one in slices.items()
            }
    except _ERRORS as error:
        raise _unreadable(path, error) from error


_ERRORS = (OSError, SafetensorError, KeyError, ValueError, AttributeError, TypeError)
_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"F{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
}
"""By safetensors' names; those of 8 bits that are floats are not read."""


def _unreadable(path: str | os.PathLike[str], error: Exception) -> ValueError:
    return ValueError(f"cannot read weights from {path}: {error}")
