"""Blocks in which patches and a text's tokens are two streams that ask and answer each other.

The transformers of Stable Diffusion 3 and of FLUX.1 are made of them. Attributes are named as the
keys of `diffusers` are: `attn.add_q_proj`, `norm1_context.linear`.

Reference: Esser, Kulal, Blattmann et al., *Scaling rectified flow transformers for high-resolution
image synthesis*, 2024, section 4 and figure 2, https://arxiv.org/abs/2403.03206.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.types import Array
from jaxsearch.models.attention import attention
from jaxsearch.models.dit import normalise
from jaxsearch.models.embeddings import sinusoidal
from jaxsearch.models.feed_forward import FeedForward, Gelu, TwoLayers
from jaxsearch.models.layers import Layers
from jaxsearch.models.rotary import Turns, turned

_EPSILON = 1e-6  # of all normalisations
_NUMBER_FEATURES = 256


class Condition(nnx.Module):
    """What a time, a text as a whole, and perhaps a scale of guidance become, [n, size].

    Args:
        size: features of a token.
        pooled: features of a text as a whole.
        make: its layers.
        guided: whether it is told a scale of guidance, which it was distilled to follow.
    """

    def __init__(self, size: int, pooled: int, make: Layers, *, guided: bool = False) -> None:
        self.timestep_embedder = TwoLayers(_NUMBER_FEATURES, size, make)
        if guided:
            self.guidance_embedder = TwoLayers(_NUMBER_FEATURES, size, make)
        self.text_embedder = TwoLayers(pooled, size, make)

    def __call__(self, t: Array, pooled: Array, guidance: Array | None = None) -> Array:
        """Times [n], texts [n, pooled] and scales [n] to [n, size]."""
        told = self.timestep_embedder(sinusoidal(t, _NUMBER_FEATURES))
        if guidance is not None:
            told = told + self.guidance_embedder(sinusoidal(guidance, _NUMBER_FEATURES))
        return told + self.text_embedder(pooled)


class Modulation(nnx.Module):
    """Shifts, scales and gates of a condition: `linear`."""

    def __init__(self, size: int, num: int, make: Layers) -> None:
        self.num = num
        self.linear = make.linear(size, num * size)

    def __call__(self, condition: Array) -> list[Array]:
        """[n, size] to `num` parts, [n, 1, size] float32 each."""
        rows = self.linear(jax.nn.silu(condition)).astype(jnp.float32)
        return jnp.split(rows[:, None, :], self.num, axis=-1)


def modulated(x: Array, shift: Array, scale: Array) -> Array:
    """Tokens [n, length, size], normalised, scaled and shifted by [n, 1, size]."""
    return normalise(x, _EPSILON) * (1.0 + scale) + shift


class StreamAttention(nnx.Module):
    """Tokens ask each other, and those of a second stream with them where there is one.

    Args:
        size: features of a token.
        num_heads: of which there are; they divide the size.
        make: its layers.
        normalises: whether queries and keys are divided by their root mean square.
        joint: whether there is a second stream, with layers of its own.
        answers: whether that gets an answer.
        leaves: whether a last layer follows for those of the first.
    """

    def __init__(
        self,
        size: int,
        num_heads: int,
        make: Layers,
        *,
        normalises: bool,
        joint: bool = True,
        answers: bool = True,
        leaves: bool = True,
    ) -> None:
        self.num_heads, self.normalises, self.leaves = num_heads, normalises, leaves
        norm = make._replace(epsilon=_EPSILON).rms_norm
        channels = size // num_heads
        self.to_q, self.to_k, self.to_v = (make.linear(size, size) for _ in range(3))
        if leaves:
            self.to_out = nnx.List([make.linear(size, size)])
        if normalises:
            self.norm_q, self.norm_k = (norm(channels) for _ in range(2))
        if joint:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (
                make.linear(size, size) for _ in range(3)
            )
            if normalises:
                self.norm_added_q, self.norm_added_k = (norm(channels) for _ in range(2))
        if joint and answers:
            self.to_add_out = make.linear(size, size)
        self.answers = joint and answers

    def __call__(
        self, x: Array, text: Array | None = None, turns: Turns | None = None
    ) -> tuple[Array, Array | None]:
        """What each stream is answered.

        Args:
            x: [n, length, size].
            text: the second stream, [n, other length, size].
            turns: by what queries and keys of all tokens are turned, those of `x` first.
        """
        query, key, value = (self._heads(layer(x)) for layer in (self.to_q, self.to_k, self.to_v))
        if self.normalises:
            query, key = self._normalised(self.norm_q, query), self._normalised(self.norm_k, key)
        if text is not None:
            more_query, more_key, more_value = (
                self._heads(layer(text))
                for layer in (self.add_q_proj, self.add_k_proj, self.add_v_proj)
            )
            if self.normalises:
                more_query = self._normalised(self.norm_added_q, more_query)
                more_key = self._normalised(self.norm_added_k, more_key)
            query, key, value = (
                jnp.concatenate(pair, axis=1)
                for pair in ((query, more_query), (key, more_key), (value, more_value))
            )
        if turns is not None:
            query, key = turned(query, turns), turned(key, turns)
        mixed = attention(query, key, value).reshape(*query.shape[:2], -1)
        first, second = mixed[:, : x.shape[1]], mixed[:, x.shape[1] :]
        if self.leaves:
            first = self.to_out[0](first)
        return first, self.to_add_out(second) if self.answers else None

    def _heads(self, tokens: Array) -> Array:
        return tokens.reshape(*tokens.shape[:2], self.num_heads, -1)

    @staticmethod
    def _normalised(norm: nnx.RMSNorm, heads: Array) -> Array:
        return norm(heads).astype(heads.dtype)


class TwoStreamBlock(nnx.Module):
    """One attention of patches and text, then a perceptron for each; all shifted, scaled, gated.

    Args:
        size: features of a token.
        num_heads: of each attention.
        make: its layers.
        normalises: whether queries and keys are divided by their root mean square.
        dual: whether patches have a second attention of their own.
        last: whether the text goes no further: it is asked, and not changed.
    """

    def __init__(
        self,
        size: int,
        num_heads: int,
        make: Layers,
        *,
        normalises: bool,
        dual: bool = False,
        last: bool = False,
    ) -> None:
        self.dual, self.last = dual, last
        self.norm1 = Modulation(size, 9 if dual else 6, make)
        self.norm1_context = Modulation(size, 2 if last else 6, make)
        self.attn = StreamAttention(size, num_heads, make, normalises=normalises, answers=not last)
        if dual:
            self.attn2 = StreamAttention(size, num_heads, make, normalises=normalises, joint=False)
        self.ff = FeedForward(size, Gelu(size, make), make)
        if not last:
            self.ff_context = FeedForward(size, Gelu(size, make), make)

    def __call__(
        self, x: Array, text: Array, condition: Array, turns: Turns | None = None
    ) -> tuple[Array, Array]:
        """Both streams, float32, a block further.

        Args:
            x: [n, length, size] float32.
            text: [n, other length, size] float32.
            condition: [n, size].
            turns: of all tokens, those of `x` first; None: places are told otherwise.
        """
        parts = self.norm1(condition)
        shift, scale, gate, next_shift, next_scale, next_gate = parts[:6]
        words = self.norm1_context(condition)
        # Where the text is only asked, its two parts stand the other way round.
        asked = modulated(text, *(words[::-1] if self.last else words[:2]))
        change, answer = self.attn(modulated(x, shift, scale), asked, turns)
        moved = x + gate * change.astype(jnp.float32)
        if self.dual:
            more_shift, more_scale, more_gate = parts[6:]
            change, _ = self.attn2(modulated(x, more_shift, more_scale))
            moved = moved + more_gate * change.astype(jnp.float32)
        change = self.ff(modulated(moved, next_shift, next_scale))
        moved = moved + next_gate * change.astype(jnp.float32)
        if answer is None:
            return moved, text
        text = text + words[2] * answer.astype(jnp.float32)
        change = self.ff_context(modulated(text, words[3], words[4]))
        return moved, text + words[5] * change.astype(jnp.float32)
