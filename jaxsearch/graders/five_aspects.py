"""A vision-language model as a critic of five aspects, as Ma et al. 2025 grade images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxsearch.graders.client import Client, UnusableError
from jaxsearch.graders.pictures import data_url
from jaxsearch.graders.types import Grade, Grader

ASPECTS: dict[str, str] = {
    "accuracy_to_prompt": "does it show what was asked for: every object, attribute and relation, "
    "and nothing that contradicts them?",
    "originality": "is there an idea of its own in composition, viewpoint or style?",
    "visual_quality": "is it well made: light, colour, sharpness, anatomy, free of artefacts?",
    "internal_consistency": "do its parts fit each other and the world that it shows?",
    "emotional_resonance": "does it move whoever looks at it?",
}
"""The five aspects of Ma et al. 2025, appendix, and what is asked of each."""

HIGHEST = 10.0
"""Of each aspect; 0 is the lowest."""

Format = Literal["json_schema", "json_object", "none"]


def five_aspects(
    client: Client,
    *,
    name: str = "five_aspects",
    aspects: Sequence[str] = tuple(ASPECTS),
    response_format: Format = "json_schema",
    temperature: float = 0.0,
) -> Grader:
    """Asks for 0 to 10 in each of five aspects; the score is their mean, times ten: 0 to 100.

    Args:
        client: who is asked.
        name: the column it has in records.
        aspects: those whose mean counts; all five are asked for in any case.
        response_format: how the server is told to answer in JSON; `"none"` where it knows neither
            way. The answer must be the object that is asked for in any case.
        temperature: of the answer.

    Raises:
        ValueError: if an aspect or the format is unknown, or no aspect is left.

    Reference:
        Ma, Tong, Jia et al., *Inference-time scaling for diffusion models beyond scaling denoising
        steps*, 2025, section 5 ("LLM Grader"), https://arxiv.org/abs/2501.09732.
    """
    taken = tuple(aspects)
    for one in taken:
        if one not in ASPECTS:
            raise ValueError(f"aspects has {one!r}: there are {', '.join(ASPECTS)}")
    if not taken:
        raise ValueError("aspects is empty: name at least one")
    if response_format not in ("json_schema", "json_object", "none"):
        raise ValueError(
            f"response_format is {response_format!r}: it must be 'json_schema', 'json_object' or "
            "'none'"
        )
    options: dict[str, Any] = {"temperature": temperature}
    if response_format == "json_schema":
        schema = {"name": "grades", "strict": True, "schema": _SCHEMA}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif response_format == "json_object":
        options["response_format"] = {"type": "json_object"}

    def grade(image: np.ndarray, prompt: str) -> Grade:
        said = client.ask(_question(prompt), data_url(image), _read, **options)
        mean = sum(said.answer[one] for one in taken) / len(taken)
        return Grade(100 * mean / HIGHEST, said.answer, said.attempts, said.cost)

    about = [client.url, client.model, _question("{}"), taken, response_format, temperature]
    return Grader(name, json.dumps(["five_aspects", *about]), grade, client=client)


_SCHEMA = {
    "type": "object",
    "properties": {one: {"type": "number"} for one in ASPECTS},
    "required": list(ASPECTS),
    "additionalProperties": False,
}


def _question(prompt: str) -> str:
    lines = "\n".join(f'- "{name}": {asked}' for name, asked in ASPECTS.items())
    return (
        "You judge pictures that were made from a text, as a strict and fair art critic who uses "
        "the whole scale.\n"
        f"The picture was made from this text: {json.dumps(prompt, ensure_ascii=False)}\n"
        f"Rate it from 0 (fails) to {HIGHEST:g} (could not be better) in each of these:\n"
        f"{lines}\n"
        "Answer with one JSON object that has these five names and a number for each, and with "
        "nothing else."
    )


def _read(choice: Mapping[str, Any]) -> dict[str, float]:
    """The five numbers of an answer."""
    if choice.get("finish_reason") == "length":
        raise UnusableError("the answer is cut off (finish_reason: length)")
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(text, str):
        raise UnusableError("the answer has no text")
    try:
        found = json.loads(_without_fence(text))
    except (ValueError, RecursionError) as error:
        raise UnusableError(f"the answer is no JSON: {text[:80]!r}") from error
    if not isinstance(found, Mapping):
        raise UnusableError(f"the answer is no object: {text[:80]!r}")
    return {one: _number(found, one) for one in ASPECTS}


def _number(found: Mapping[str, Any], aspect: str) -> float:
    value = found.get(aspect)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UnusableError(f"the answer's {aspect} is {value!r}: it must be a number")
    if not 0 <= value <= HIGHEST:
        raise UnusableError(f"the answer's {aspect} is {value!r}: it must lie in [0, {HIGHEST:g}]")
    return float(value)


def _without_fence(text: str) -> str:
    """What stands between the lines of backticks that models like to write around JSON."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text.partition("\n")[2].removesuffix("```")
    return text
