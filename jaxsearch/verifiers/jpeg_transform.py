"""From pixels to quantised DCT coefficients, bit for bit as libjpeg-turbo computes them.

The first half of a baseline JPEG encoder (ITU-T T.81): colour conversion, 4:2:0 subsampling,
forward DCT, quantisation and the order of blocks in the file. Everything is int32. The integer
constants and the rounding rules are those of libjpeg-turbo's default ("islow") path; each function
names the file they come from.

Letters in shapes: `n` images, `h, w, c` an image, `i, j` rows and columns of blocks, `b = i*j`
blocks, `m` minimum coded units (MCUs). The 64 positions of a block come first, so that operations
along a block are elementwise over long contiguous rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array

# Quantisation tables of T.81 Annex K.1 (tables K.1 and K.2), rows of 8 from low to high frequency.
_LUMINANCE = """
    16 11 10 16 24 40 51 61      12 12 14 19 26 58 60 55      14 13 16 24 40 57 69 56
    14 17 22 29 51 87 80 62      18 22 37 56 68 109 103 77    24 35 55 64 81 104 113 92
    49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99"""
_CHROMINANCE = """
    17 18 24 47 99 99 99 99      18 21 26 66 99 99 99 99      24 26 56 99 99 99 99 99
    47 66 99 99 99 99 99 99      99 99 99 99 99 99 99 99      99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99      99 99 99 99 99 99 99 99"""

# The 8-point DCT of jfdctint.c as integer matrices, in units of 2^-13 (CONST_BITS). Its butterfly
# rounds only at the end, so it is a linear map; the file's sums of rounded constants give 10703
# beside 10704 and 2259 beside 2261. Columns: the sums, or differences, of samples (0,7) to (3,4).
_EVEN = [[8192, 8192, 8192, 8192], [10703, 4433, -4433, -10703],
         [8192, -8192, -8192, 8192], [4433, -10704, 10704, -4433]]  # fmt: skip
_ODD = [[11363, 9633, 6437, 2260], [9633, -2259, -11362, -6436],
        [6437, -11362, 2261, 9633], [2260, -6436, 9633, -11363]]  # fmt: skip


def zigzag_order() -> np.ndarray:
    """[64] int: raster index of the coefficient at each place of the zigzag (T.81 figure 5)."""
    row, column = np.divmod(np.arange(64), 8)
    diagonal = row + column
    return np.lexsort((np.where(diagonal % 2 == 0, column, row), diagonal))


def quantisation_table(quality: int, chroma: bool) -> np.ndarray:
    """[64] int32 in 1..255, raster order, of a quality in 1..100 (libjpeg-turbo jcparam.c)."""
    base = np.array((_CHROMINANCE if chroma else _LUMINANCE).split(), np.int32)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((base * scale + 50) // 100, 1, 255).astype(np.int32)


def rgb_to_ycc(images: Array) -> tuple[Array, Array, Array]:
    """Y, Cb and Cr, int32 [n,h,w] in 0..255, of int32 RGB [n,h,w,3] (jccolor.c).

    16-bit fixed point; Y rounds half up, the chroma rounds half down.
    """
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    half_down = (128 << 16) + (1 << 15) - 1
    luma = 19595 * red + 38470 * green + 7471 * blue + (1 << 15)
    chroma_blue = -11059 * red - 21709 * green + 32768 * blue + half_down
    chroma_red = 32768 * red - 27439 * green - 5329 * blue + half_down
    return luma >> 16, chroma_blue >> 16, chroma_red >> 16


def pad_edge(planes: Array, height: int, width: int) -> Array:
    """Repeats the last row and column of [n,h,w] until it is [n,height,width]."""
    _, h, w = planes.shape
    return jnp.pad(planes, ((0, 0), (0, height - h), (0, width - w)), mode="edge")


def downsample(planes: Array, width: int) -> Array:
    """Means of 2x2 pixels, [n,h,w] to [n,ceil(h/2),width], with the bias 1,2,1,2,... of jcsample.c.

    Columns are repeated before the mean up to `2 * width`, rows only to an even number: whatever
    rows a block still lacks are repeated after the mean (jcprepct.c).
    """
    n, h, _ = planes.shape
    padded = pad_edge(planes, h + h % 2, 2 * width)
    cells = padded.reshape(n, (h + 1) // 2, 2, width, 2)
    bias = jnp.asarray(1 + np.arange(width) % 2, jnp.int32)
    return (jnp.sum(cells, axis=(2, 4), dtype=jnp.int32) + bias[None, None, :]) >> 2


def to_blocks(planes: Array) -> Array:
    """Cuts [n,8i,8j] into blocks: [8,8,n,i,j], row and column within the block first."""
    n, height, width = planes.shape
    return planes.reshape(n, height // 8, 8, width // 8, 8).transpose(2, 4, 0, 1, 3)


def _dct_1d(samples: Array, axis: int, shift: int) -> Array:
    """The 8-point DCT along `axis` 0 or 1 of int32 [8,8,...], rounded half up by `shift` bits."""
    head, tail = jnp.split(samples, 2, axis)
    tail = jnp.flip(tail, axis)
    term = "ji,i...->j..." if axis == 0 else "ji,ki...->kj..."
    even = jnp.einsum(term, jnp.asarray(_EVEN, jnp.int32), head + tail)
    odd = jnp.einsum(term, jnp.asarray(_ODD, jnp.int32), head - tail)
    both = jnp.stack([even, odd], axis + 1).reshape(samples.shape)  # frequencies 0, 1, 2, ...
    return (both + (1 << (shift - 1))) >> shift


def forward_dct(blocks: Array) -> Array:
    """8 times the DCT of T.81 A.3.3, of int32 [8,8,...] in 0..255: rows, columns (jfdctint.c)."""
    return _dct_1d(_dct_1d(blocks - 128, axis=1, shift=11), axis=0, shift=15)


def quantise(coefficients: Array, table: np.ndarray) -> Array:
    """Divides int32 [64,...] by `8 * table` [64], rounding halves away from zero (jcdctmgr.c).

    The quotient is a product with `ceil(2^20 / table)`: exact, because the numerator is below 2^12.
    """
    divisor = table.reshape(64, *[1] * (coefficients.ndim - 1))
    reciprocal = jnp.asarray(-(-(1 << 20) // divisor), jnp.uint32)
    numerator = (jnp.abs(coefficients) + jnp.asarray(4 * divisor)) >> 3
    quotient = ((numerator.astype(jnp.uint32) * reciprocal) >> 20).astype(jnp.int32)
    return jnp.where(coefficients < 0, -quotient, quotient)


def _encode_plane(planes: Array, table: np.ndarray, rows: int, columns: int) -> Array:
    """Quantised zigzag coefficients [64,n,rows,columns] of an int32 plane [n,h,w]."""
    blocks = to_blocks(pad_edge(planes, 8 * rows, 8 * columns))
    coefficients = forward_dct(blocks).reshape(64, *blocks.shape[2:])
    return quantise(coefficients, table)[zigzag_order()]


def _pad_luma(blocks: Array, rows: int, columns: int) -> Array:
    """Adds the dummy blocks that complete the 2x2 luma blocks of the last MCUs (jccoefct.c).

    `blocks` [64,n,i,j] becomes [64,n,rows,columns]. A dummy block has no AC coefficient and the DC
    of the block before it in its MCU: its left neighbour, or for a dummy row the block top right.
    """
    _, _, i, j = blocks.shape
    row, column = np.mgrid[:rows, :columns]
    source_row = np.minimum(row, i - 1)
    source_column = np.minimum(np.where(row < i, column, column | 1), j - 1)
    dc = blocks[0][:, source_row, source_column]
    ac = jnp.pad(blocks[1:], ((0, 0), (0, 0), (0, rows - i), (0, columns - j)))
    return jnp.concatenate([dc[None], ac])


def previous(values: Array, axis: int) -> Array:
    """Shifts by one along `axis`; 0 comes first."""
    first = jnp.zeros_like(jax.lax.slice_in_dim(values, 0, 1, axis=axis))
    return jnp.concatenate([first, jax.lax.slice_in_dim(values, 0, -1, axis=axis)], axis)


def _encode_grey(images: Array, quality: int) -> tuple[Array, np.ndarray]:
    """`encode` of one component: the blocks are in raster order, and none is a dummy."""
    n, h, w, _ = images.shape
    planes = images[..., 0].astype(jnp.int32)
    table = quantisation_table(quality, chroma=False)
    blocks = _encode_plane(planes, table, -(-h // 8), -(-w // 8)).reshape(64, n, -1)
    dc = blocks[0] - previous(blocks[0], axis=1)
    return jnp.concatenate([dc[None], blocks[1:]]), np.zeros(blocks.shape[2], bool)


def _encode_rgb(images: Array, quality: int) -> tuple[Array, np.ndarray]:
    """`encode` of three components: each MCU has four blocks of Y, then one of Cb, one of Cr."""
    n, h, w, _ = images.shape
    rows, columns = -(-h // 16), -(-w // 16)
    m = rows * columns
    luma, *chroma = rgb_to_ycc(images.astype(jnp.int32))
    luma_table, chroma_table = (quantisation_table(quality, chroma=c) for c in (False, True))
    blocks = _encode_plane(luma, luma_table, -(-h // 8), -(-w // 8))
    if blocks.shape[2:] != (2 * rows, 2 * columns):
        blocks = _pad_luma(blocks, 2 * rows, 2 * columns)
    units = blocks.reshape(64, n, rows, 2, columns, 2).transpose(0, 1, 2, 4, 3, 5)
    components = [units.reshape(64, n, 4 * m)]
    for plane in chroma:
        blocks = _encode_plane(downsample(plane, 8 * columns), chroma_table, rows, columns)
        components.append(blocks.reshape(64, n, m))

    def interleave(parts: list[Array]) -> Array:
        shaped = [part.reshape(*part.shape[:2], m, -1) for part in parts]
        return jnp.concatenate(shaped, axis=3).reshape(-1, n, 6 * m)

    dc = interleave([(part[0] - previous(part[0], axis=1))[None] for part in components])
    ac = interleave([part[1:] for part in components])
    return jnp.concatenate([dc, ac]), np.tile([False] * 4 + [True] * 2, m)


def encode(images: Array, quality: int) -> tuple[Array, np.ndarray]:
    """All that the entropy coder needs of uint8 images [n,h,w,c], c = 1 (grey) or 3 (RGB).

    Returns:
        Coefficients int32 [64,n,b] in zigzag and scan order, the DC (row 0) minus the DC of the
        block before it of the same component; and which of the `b` blocks are chroma, bool [b].
    """
    return (_encode_grey if images.shape[-1] == 1 else _encode_rgb)(images, quality)
