"""Which attention is taken where."""

from __future__ import annotations

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.models import attention as module
from jaxsearch.models.attention import attention, implementation


@pytest.mark.parametrize(
    ("platform", "dtype", "channels", "taken"),
    [
        ("PJRT C API\ncuda 12090", "bfloat16", 72, "cudnn"),
        ("PJRT C API\ncuda 12090", "bfloat16", 128, "cudnn"),
        ("PJRT C API\ncuda 12090", "bfloat16", 160, "xla"),
        ("PJRT C API\ncuda 12090", "bfloat16", 36, "xla"),
        ("PJRT C API\ncuda 12090", "float32", 72, "xla"),
        ("PJRT C API\nrocm 60300", "bfloat16", 72, "xla"),
        ("cpu", "bfloat16", 72, "xla"),
    ],
)
def test_flash_attention_is_taken_where_it_can_be(monkeypatch, platform, dtype, channels, taken):
    monkeypatch.setattr(module, "_platform", lambda: platform)
    assert implementation(jax.ShapeDtypeStruct((1, 4, 2, channels), dtype)) == taken


def test_the_choice_reaches_jax(monkeypatch):
    """Kills: an implementation that is chosen and then forgotten."""
    asked = mock.Mock(return_value=0)
    monkeypatch.setattr(module, "_platform", lambda: "cuda")
    monkeypatch.setattr(jax.nn, "dot_product_attention", asked)
    query = jnp.ones((1, 4, 2, 8), jnp.bfloat16)
    attention(query, query, query, causal=True)
    said = asked.call_args.kwargs
    assert (said["is_causal"], said["implementation"]) == (True, "cudnn")
    attention(query, query, query, seen=jnp.ones((1, 4), bool))
    assert asked.call_args.kwargs["implementation"] == "xla"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("causal", "other"), [(False, 77), (True, 64)])
def test_it_is_the_softmax_of_the_equation(dtype, causal, other):
    """On a GPU this is also what flash attention is compared with."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(2, 64, 3, 16), (2, other, 3, 16), (2, other, 3, 16)]
    q, k, v = (
        jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)
    )
    exact = [np.asarray(one, np.float64) for one in (q, k, v)]
    scores = np.einsum("nqhc,nkhc->nhqk", exact[0], exact[1]) / 4
    if causal:
        scores = np.where(np.tri(64, other, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    wanted = np.einsum("nhqk,nkhc->nqhc", weights, exact[2])
    found = attention(q, k, v, causal=causal)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_keys_that_are_not_seen_do_not_matter(dtype):
    """Each row is that of its own keys alone. Kills: one row's length for another's."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (3, 5, 2, 8), dtype) for key in keys)
    lengths = jnp.asarray([5, 1, 3], jnp.int32)
    found = attention(q, k, v, seen=jnp.arange(5)[None] < lengths[:, None])
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        wanted = attention(q[one], k[one, :length], v[one, :length])
        np.testing.assert_allclose(
            np.asarray(found[one], np.float32), np.asarray(wanted, np.float32), atol=1e-2
        )
