"""From what a network was trained to output to what every solver reads.

With `x = alpha*x0 + sigma*eps`, any one of `x0`, `eps`, the velocity of a variance-preserving
process and the velocity of a flow determines the others. Each function takes `x` and the network's
output [n, *E] with `alpha` and `sigma` [n].
"""

from __future__ import annotations

from jaxsearch.core.types import Array, Prediction


def per_row(values: Array, like: Array) -> Array:
    """Values [n] shaped to multiply an array [n, *E]."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def from_x0(x: Array, x0: Array, alpha: Array, sigma: Array) -> Prediction:
    """A network that predicts the clean latent."""
    return Prediction(x0, (x - per_row(alpha, x) * x0) / per_row(sigma, x))


def from_epsilon(x: Array, eps: Array, alpha: Array, sigma: Array) -> Prediction:
    """A network that predicts the noise (Ho et al. 2020, equation 14)."""
    return Prediction((x - per_row(sigma, x) * eps) / per_row(alpha, x), eps)


def from_v(x: Array, v: Array, alpha: Array, sigma: Array) -> Prediction:
    """`v = alpha*eps - sigma*x0` with `alpha^2 + sigma^2 = 1` (Salimans & Ho 2022, appendix D)."""
    alpha, sigma = per_row(alpha, x), per_row(sigma, x)
    return Prediction(alpha * x - sigma * v, sigma * x + alpha * v)


def from_flow(x: Array, velocity: Array, sigma: Array) -> Prediction:
    """`velocity = eps - x0` on the straight path `x = (1 - t)*x0 + t*eps`, `sigma = t`."""
    t = per_row(sigma, x)
    return Prediction(x - t * velocity, x + (1.0 - t) * velocity)
