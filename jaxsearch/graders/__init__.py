"""Judges outside the program: services behind HTTP, any function of Python."""

from jaxsearch.graders.client import Client
from jaxsearch.graders.five_aspects import ASPECTS, five_aspects
from jaxsearch.graders.function import function
from jaxsearch.graders.mixed import mixed
from jaxsearch.graders.panel import Failure, Panel
from jaxsearch.graders.question_answer import QUESTION, question_answer
from jaxsearch.graders.types import Grade, Grader, GradingError, SpentError

__all__ = [
    "ASPECTS",
    "QUESTION",
    "Client",
    "Failure",
    "Grade",
    "Grader",
    "GradingError",
    "Panel",
    "SpentError",
    "five_aspects",
    "function",
    "mixed",
    "question_answer",
]
