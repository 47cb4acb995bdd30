"""What turns images into the features that metrics are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxsearch.core.types import Array, PyTree


class Extracted(NamedTuple):
    """What a network says of images; float32."""

    features: Array  # [n, d]
    logits: Array | None = None  # [n, c] of classes, where it has any: for Inception scores
    spatial: Array | None = None  # [n, s] of places, where it has any: for sFID


class Extractor(NamedTuple):
    """A network with its preprocessing.

    `extractor.apply(extractor.params, images)` takes images [n,h,w,c] float32 in [0, 1] with c = 1
    or 3. Equal settings give the same `apply`, so that programs are compiled once.
    """

    name: str
    apply: Callable[[PyTree, Array], Extracted]
    params: PyTree
