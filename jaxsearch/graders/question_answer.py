"""How probable it is that a model answers "Yes" when asked whether an image shows its prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxsearch.graders.client import Client, UnusableError
from jaxsearch.graders.pictures import data_url
from jaxsearch.graders.types import Grade, Grader

QUESTION = 'Does this figure show "{}"? Please answer Yes or No.'
"""`{}` is the prompt (Lin et al. 2024, section 3; its question, and for both answers)."""

Form = Literal["probability", "ratio"]


def question_answer(
    client: Client,
    *,
    name: str = "question_answer",
    question: str = QUESTION,
    form: Form = "probability",
    top_logprobs: int = 20,
) -> Grader:
    """VQAScore's form: the probability that the answer's first token is "Yes", 0 to 1.

    It is the sum over the listed tokens that say so, whatever their capitals and spaces. Where none
    is listed and one that says "No" is, it is the most that is left for it: the least listed
    probability, or what all of them leave, if that is less.

    Args:
        client: who is asked; its server must return log-probabilities.
        name: the column it has in records.
        question: what is asked, with one `{}` where the prompt goes.
        form: that `"probability"` itself, as Lin et al. take it; or its `"ratio"` to the sum of
            those of Yes and No, for models that also say other things.
        top_logprobs: how many tokens the server should list, 2 to 20.

    Raises:
        ValueError: if the question has not one `{}`, or a setting is unknown or out of its range.

    Reference:
        Lin, Pathak, Li et al., *Evaluating text-to-visual generation with image-to-text
        generation*, 2024, equation 1, https://arxiv.org/abs/2404.01291.
    """
    if question.count("{}") != 1:
        raise ValueError(f"the question {question!r} must have one {{}}, where the prompt goes")
    if form not in ("probability", "ratio"):
        raise ValueError(f"form is {form!r}: it must be 'probability' or 'ratio'")
    if not 2 <= top_logprobs <= 20:
        raise ValueError(f"top_logprobs is {top_logprobs}: it must lie in [2, 20]")
    options = {"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": top_logprobs}

    def grade(image: np.ndarray, prompt: str) -> Grade:
        asked = question.replace("{}", prompt)
        said = client.ask(asked, data_url(image), _read, **options)
        yes, no = said.answer
        score = yes if form == "probability" else yes / (yes + no)
        return Grade(score, {"yes": yes, "no": no}, said.attempts, said.cost)

    about = [client.url, client.model, question, form, top_logprobs]
    return Grader(name, json.dumps(["question_answer", *about]), grade, client=client)


def _read(choice: Mapping[str, Any]) -> tuple[float, float]:
    """The probabilities of Yes and No as the first token of an answer."""
    listed = _listed(choice)
    said = {"yes": 0.0, "no": 0.0}
    for token, probability in listed:
        word = token.strip().lower()
        if word in said:
            said[word] += probability
    if not any(said.values()):
        words = ", ".join(repr(token) for token, _ in listed[:3])
        raise UnusableError(f"the answer begins with {words}: neither Yes nor No is listed")
    least = min(probability for _, probability in listed)
    left = max(1.0 - math.fsum(probability for _, probability in listed), 0.0)
    yes, no = (min(found or min(least, left), 1.0) for found in said.values())
    return yes, no


def _listed(choice: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The tokens that the answer might begin with, and their probabilities."""
    try:
        entries = choice["logprobs"]["content"][0]["top_logprobs"]
        found = [(entry["token"], float(entry["logprob"])) for entry in entries]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UnusableError("the response has no log-probabilities of its first token") from error
    if not found or any(
        not isinstance(token, str) or math.isnan(log) or log > 1e-3 for token, log in found
    ):
        raise UnusableError("the response's log-probabilities are none")
    return [(token, math.exp(min(log, 0.0))) for token, log in found]
