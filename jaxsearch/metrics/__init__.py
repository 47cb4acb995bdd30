"""Metrics of populations of images, as functions of their features; one metric a file."""

from jaxsearch.metrics.diversity import prompt_diversity
from jaxsearch.metrics.frechet import frechet_distance
from jaxsearch.metrics.inception_score import inception_score
from jaxsearch.metrics.kernel_distance import kernel_distance
from jaxsearch.metrics.moments import Moments, Statistics, moments, statistics, statistics_of
from jaxsearch.metrics.precision_recall import PrecisionRecall, precision_recall
from jaxsearch.metrics.spread import Spread

__all__ = [
    "Moments",
    "PrecisionRecall",
    "Spread",
    "Statistics",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "moments",
    "precision_recall",
    "prompt_diversity",
    "statistics",
    "statistics_of",
]
