"""The Inception score: are images clearly of one class, and of many classes together."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.special import log_softmax

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array
from jaxsearch.metrics.checks import check_features
from jaxsearch.metrics.spread import Spread, spread_of


def inception_score(logits: Array | np.ndarray, *, splits: int = 10) -> Spread:
    """`exp(E KL(p(y|x) || p(y)))` of each of several parts of a population.

    Parts are one after another, as images are given: ADM's evaluator has parts of 5000 images,
    which of 50 000 are 10. Computed on the host in float64, part by part.

    Args:
        logits: [n, c] of a classifier; Inception's are taken without the last bias.
        splits: how many parts; the score grows with the size of a part.

    Returns:
        Mean and standard deviation over the parts; a score lies in [1, c].

    Raises:
        ValueError: if there are fewer images than parts, or logits that are not finite.

    Reference:
        Salimans et al., *Improved techniques for training GANs*, 2016, section 4,
        https://arxiv.org/abs/1606.03498.
    """
    check_count("splits", splits)
    check_features("logits", logits, least=splits)
    bounds = np.arange(splits + 1) * len(logits) // splits
    parts = [_of_part(logits[begin:end]) for begin, end in itertools.pairwise(bounds)]
    return spread_of(np.array(parts))


def _of_part(logits: Array | np.ndarray) -> float:
    log = log_softmax(np.asarray(logits, np.float64), axis=1)
    probability = np.exp(log)
    mean = probability.mean(axis=0)
    # sum of p log p is 0 where p is: log is finite there, and the mean's log counts with p alone.
    entropy_of_mean = -np.sum(mean * np.log(mean, out=np.zeros_like(mean), where=mean > 0))
    return float(np.exp(entropy_of_mean + np.mean(np.sum(probability * log, axis=1))))
