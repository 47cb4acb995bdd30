"""Pictures as published networks are given them: resized, cut and normalised inside the program.

Published verifiers were trained and are evaluated on pictures that Pillow resized. Its filters are
widened where a picture shrinks, its sums are of whole numbers, and it rounds to 8 bits after each
of two passes; `jax.image.resize` is up to 23 levels away from it. There are two paths:

- `"8bit"` gives Pillow's levels, every one. What rounds has no gradient.
- `"float"` has the same weights, not rounded, and rounds nothing in between.

Weights hang on sizes alone: they are NumPy arrays when a program is traced.

Letters in shapes: `n` images, `h, w, c` an image, `i` places before a pass and `o` after it, `k`
taps of a filter.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array
from jaxsearch.models.position_grid import antialiased_cubic, cubic
from jaxsearch.verifiers.jpeg import to_uint8

Filter = Literal["bicubic", "bilinear"]
Path = Literal["8bit", "float"]
PATHS: tuple[Path, ...] = ("8bit", "float")

_FRACTION = 22
"""Bits behind the point of Pillow's weights (`Resample.c`: 32 - 8 - 2)."""
_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}
"""How far from its middle a filter reaches, in places."""


class Preprocessing(NamedTuple):
    """What a network wants of pictures.

    Attributes:
        size: sides of the square that it is given.
        short_side: what the shorter side is resized to before the middle is cut out, at least
            `size`; None where both sides are stretched to `size` and nothing is cut off.
        filter: of resizing.
        mean: by channel, of pictures in [0, 1]; subtracted.
        std: by channel; divided by.
    """

    size: int
    short_side: int | None
    filter: Filter = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def check(self) -> None:
        """Refuses what cannot be.

        Raises:
            ValueError: naming the entry and its value.
        """
        check_count("size", self.size)
        if self.short_side is not None:
            check_count("short_side", self.short_side, self.size)
        if self.filter not in _SUPPORT:
            raise ValueError(f"filter={self.filter!r} is unknown: pass 'bicubic' or 'bilinear'")


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def preprocess(images: Array, wanted: Preprocessing, path: Path = "8bit") -> Array:
    """Images as a network is given them.

    The shorter side becomes `short_side` and the longer one `int(short_side * long / short)`, then
    the middle is cut out, beginning at `round((side - size) / 2)`, halves to even: torchvision's
    `Resize(int)` and `CenterCrop` of a Pillow image.

    Args:
        images: float32 [n,h,w,c] in [0,1], c = 1 (grey, repeated to three channels) or 3.
        wanted: static.
        path: `"8bit"` rounds to the levels of a file before, between and after the passes and has
            no gradient; `"float"` rounds nothing.

    Returns:
        float32 [n,size,size,3]. An image with a pixel that is not finite is NaN throughout, so that
        it is never chosen.

    Raises:
        ValueError: if there are other channels, or no pixels; if `wanted` or `path` cannot be.
    """
    _check_images(images, path)
    _, height, width, _ = images.shape
    passes = _passes(height, width, wanted)
    if path == "8bit":
        found = _through_levels(to_uint8(images), passes).astype(jnp.float32) / 255
    else:
        found = _through_floats(images.astype(jnp.float32), passes)
    return _normalised(images, found, wanted.mean, wanted.std)


def preprocess_whole(
    images: Array,
    size: int,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    antialias: bool,
    path: Path = "8bit",
) -> Array:
    """Images whole in a square: the longer side becomes `size`, and black stands beside the rest.

    They are resized after they became floats: torchvision's `resize` of a tensor, bicubic, which
    rounds nothing and keeps what overshoots. Sides become `round(side * size / longest)`, halves to
    even, and of an odd number of black lines one more is below or on the right, as HPS v2 has it.

    Args:
        images: float32 [n,h,w,c] in [0,1], c = 1 (grey, repeated to three channels) or 3.
        size: of the square, static.
        mean: by channel, of pictures in [0, 1]; subtracted, from black too.
        std: by channel; divided by.
        antialias: static. Whether the filter is widened where an image shrinks, and is Pillow's, as
            in torchvision from 0.17 on; otherwise four pixels make one, with the sharper filter
            that torchvision had before.
        path: `"8bit"` rounds to the levels of a file before, and has no gradient; `"float"` rounds
            nothing.

    Returns:
        float32 [n,size,size,3]. An image with a pixel that is not finite is NaN throughout.

    Raises:
        ValueError: if there are other channels, or no pixels, or one side of none were left; if
            `path` cannot be.
    """
    _check_images(images, path)
    check_count("size", size)
    inner = images.shape[1:3]
    outer = [round(side * size / max(inner)) for side in inner]
    if not min(outer):
        raise ValueError(
            f"images of {inner[0]}x{inner[1]} pixels would have no side left at {size}: pass "
            "wider ones"
        )
    found = to_uint8(images).astype(jnp.float32) / 255 if path == "8bit" else _clipped(images)
    filter = antialiased_cubic if antialias else cubic
    for axis in (2, 1):
        before, after = inner[axis - 1], outer[axis - 1]
        if max(inner) != size:  # otherwise nothing is resized
            found = _product(found, axis, filter(before, after, before / after))
    spare = [size - side for side in outer]
    beside = [(0, 0), *((one // 2, one - one // 2) for one in spare), (0, 0)]
    return _normalised(images, jnp.pad(found, beside), mean, std)


def _check_images(images: Array, path: Path) -> None:
    _, height, width, channels = images.shape
    if channels not in (1, 3) or not height * width:
        raise ValueError(
            f"images have shape {images.shape}: pass [n,h,w,c] with c = 1 (grey) or 3 (RGB)"
        )
    if path not in PATHS:
        raise ValueError(f"{path=} is unknown: pass '8bit' or 'float'")


def _normalised(images: Array, found: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """What became of images, in three channels with the mean and deviation of a training."""
    if found.shape[-1] == 1:
        found = jnp.repeat(found, 3, axis=-1)
    shift, scale = (np.asarray(one, np.float32)[None, None, None] for one in (mean, std))
    finite = jnp.all(jnp.isfinite(images), axis=(1, 2, 3), keepdims=True)
    return jnp.where(finite, (found - shift) / scale, jnp.nan)


def resize(images: Array, height: int, width: int, filter: Filter = "bicubic") -> Array:
    """Every level that `PIL.Image.resize((width, height), filter)` gives.

    Args:
        images: uint8 [n,h,w,c], any c.
        height: from 1, static.
        width: from 1, static.
        filter: Pillow's `BICUBIC` or `BILINEAR`, both widened where an image shrinks.

    Returns:
        uint8 [n,height,width,c].
    """
    if images.ndim != 4 or images.dtype != np.uint8 or 0 in images.shape[1:3]:
        raise ValueError(
            f"images are {images.dtype} of shape {images.shape}: pass uint8 [n,h,w,c] with pixels"
        )
    return _through_levels(images, _whole(images, height, width, filter))


def resize_float(images: Array, height: int, width: int, filter: Filter = "bicubic") -> Array:
    """`resize` without its roundings, of float32 images [n,h,w,c] in [0,1].

    Bicubic filters overshoot at edges. As Pillow's levels, values are kept in [0, 1] after each
    pass; the gradient is that of the weights alone, so that it does not vanish at white and black.
    """
    return _through_floats(images, _whole(images, height, width, filter))


def interpolate(images: Array, height: int, width: int, *, half_pixels: bool) -> Array:
    """Bilinear interpolation between the nearest pixels, however much an image shrinks.

    Place `i` of `o` lies at `i * inner / o`, as in TensorFlow 1, or with `half_pixels` at
    `(i + 1/2) * inner / o - 1/2`, as in PyTorch without antialiasing; beyond an edge is the edge.

    Args:
        images: float32 [n,h,w,c].
        height: from 1, static.
        width: from 1, static.
        half_pixels: static.

    Returns:
        float32 [n,height,width,c].
    """
    for axis, outer in ((1, height), (2, width)):
        check_count("a side after resizing", outer)
        inner = images.shape[axis]
        if half_pixels:
            source = np.maximum((np.arange(outer) + 0.5) * inner / outer - 0.5, 0)
        else:
            source = np.arange(outer) * inner / outer
        first = np.floor(source)
        place = np.minimum(first[:, None] + [0, 1], inner - 1).astype(np.int32)
        weight = np.stack([1 - (source - first), source - first], axis=1)
        images = _float_pass(images, _Pass(axis, inner, place, weight))
    return images


# ------------------------------------------------------------------------------------------ passes


class _Pass(NamedTuple):
    """What each place after a pass along one axis is made of."""

    axis: int  # of images
    inner: int  # i, places before
    place: np.ndarray  # [o, k] int32
    weight: np.ndarray  # [o, k] float64, of sum 1; 0 after the last tap


def _in_order(inner: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int]:
    """The axes of images in the order that Pillow resizes them, by sides `(height, width)`.

    Pillow from 13 on begins with the vertical one where the height loses more than twice as much
    as the width; before, the horizontal one always came first. The results are a few levels apart,
    on noise up to 19: what a bicubic filter overshoots is cut off between the passes.
    """
    lost, lost_width = (before - after for before, after in zip(inner, outer, strict=True))
    return (1, 2) if lost > max(0, 2 * lost_width) else (2, 1)


def _whole(images: Array, height: int, width: int, filter: str) -> list[_Pass]:
    inner, outer = (images.shape[1], images.shape[2]), (height, width)
    for side in outer:
        check_count("a side after resizing", side)
    return [
        _pass(axis, inner[axis - 1], outer[axis - 1], filter, 0, outer[axis - 1])
        for axis in _in_order(inner, outer)
    ]


def _passes(height: int, width: int, wanted: Preprocessing) -> list[_Pass]:
    """The passes of a picture, cut to what is kept of them."""
    wanted.check()
    size, short_side = wanted.size, wanted.short_side
    inner, outer = (height, width), (size, size)
    if short_side is not None:
        rows, columns = (int(short_side * side / min(inner)) for side in inner)
        outer = rows, columns
    passes = []
    for axis in _in_order(inner, outer):
        before, after = inner[axis - 1], outer[axis - 1]
        passes.append(_pass(axis, before, after, wanted.filter, round((after - size) / 2), size))
    return passes


@functools.cache
def _pass(axis: int, inner: int, outer: int, filter: str, start: int, count: int) -> _Pass:
    """Places `start` to `start + count` of a pass from `inner` to `outer` places (`Resample.c`)."""
    if filter not in _SUPPORT:
        raise ValueError(f"{filter=} is unknown: pass 'bicubic' or 'bilinear'")
    scale = inner / outer
    stretch = max(scale, 1.0)
    reach = _SUPPORT[filter] * stretch
    centre = (np.arange(start, start + count) + 0.5) * scale
    first = np.maximum(np.trunc(centre - reach + 0.5), 0).astype(np.int64)
    end = np.minimum(np.trunc(centre + reach + 0.5), inner).astype(np.int64)
    place = first[:, None] + np.arange(np.max(end - first))[None]
    distance = np.abs(place - centre[:, None] + 0.5) * (1 / stretch)
    weight = np.where(place < end[:, None], _kernel(distance, filter), 0.0)
    # Added one by one, as Pillow does: another order may end in another last bit.
    weight /= np.cumsum(weight, axis=1)[:, -1:]
    return _Pass(axis, inner, np.minimum(place, inner - 1).astype(np.int32), weight)


def _kernel(x: np.ndarray, filter: str) -> np.ndarray:
    """A filter at distances `x` from its middle, float64.

    Keys, Cubic convolution interpolation for digital image processing, 1981, equation 15, where a
    is -1/2; the triangle otherwise.
    """
    if filter == "bilinear":
        return np.maximum(1 - x, 0)
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _through_levels(images: Array, passes: list[_Pass]) -> Array:
    """uint8 [n,h,w,c] through passes, in Pillow's whole numbers."""
    levels = images.astype(jnp.int32)
    for one in passes:
        if not _changes_nothing(one):
            levels = _levels_pass(levels, one)
    return levels.astype(jnp.uint8)


def _levels_pass(levels: Array, one: _Pass) -> Array:
    """One pass over levels int32 in 0..255, rounded to the nearest level.

    Weights are whole numbers of 2^-22. Their sum with levels is below 2^31 while those above zero
    add up to less than 2: they come to 1.14 at most, where an edge cuts off negative taps. Sums
    on the way may be anything, int32 wraps round and back.
    """
    fixed = one.weight * (1 << _FRACTION)
    fixed = np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int32)
    shape = [1] * levels.ndim
    shape[one.axis] = -1

    def add(total: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = tap
        read = jnp.take(levels, place, one.axis, mode="clip")
        return total + weight.reshape(shape) * read, None

    size = (*levels.shape[: one.axis], len(fixed), *levels.shape[one.axis + 1 :])
    # A loop over taps reads a few places each, where a matrix product would go over all of them.
    half = jnp.full(size, 1 << (_FRACTION - 1), jnp.int32)
    taps = jnp.asarray(one.place.T), jnp.asarray(fixed.T)
    total, _ = jax.lax.scan(add, half, taps, unroll=min(8, len(fixed.T)))
    return jnp.clip(total >> _FRACTION, 0, 255)


def _through_floats(images: Array, passes: list[_Pass]) -> Array:
    """float32 [n,h,w,c] through passes, kept in [0, 1] before and after each."""
    images = _clipped(images)
    for one in passes:
        if not _changes_nothing(one):
            images = _clipped(_float_pass(images, one))
    return images


def _float_pass(images: Array, one: _Pass) -> Array:
    """One pass over floats, as a matrix product."""
    matrix = np.zeros((len(one.place), one.inner))
    np.add.at(matrix, (np.arange(len(matrix))[:, None], one.place), one.weight)
    return _product(images, one.axis, matrix)


def _product(images: Array, axis: int, matrix: np.ndarray) -> Array:
    """Places along an axis of images as sums over those before, by a matrix [after, before]."""
    term = "nhwc,oh->nowc" if axis == 1 else "nhwc,ow->nhoc"
    exact = jax.lax.Precision.HIGHEST  # accelerators otherwise round the factors to fewer digits
    return jnp.einsum(term, images, jnp.asarray(matrix, jnp.float32), precision=exact)


def _changes_nothing(one: _Pass) -> bool:
    """Whether a pass gives every place of an axis itself."""
    own = one.place == np.arange(len(one.place))[:, None]
    return len(one.place) == one.inner and np.array_equal(one.weight, own)


@jax.custom_jvp
def _clipped(images: Array) -> Array:
    """Values in [0, 1]; the gradient is that of values that are not clipped."""
    return jnp.clip(images, 0, 1)


@_clipped.defjvp
def _pass_on(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _clipped(primals[0]), tangents[0]
