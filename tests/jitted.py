"""Models called as users call them: an eager call would compile each of its operations alone."""

from __future__ import annotations

import jax

called = jax.jit(lambda model, *inputs: model(*inputs))
"""`(denoiser, decoder or verifier, *inputs) -> its output`."""
