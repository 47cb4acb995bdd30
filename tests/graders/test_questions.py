"""What graders ask a model, and how they read its answers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from jaxsearch.graders import ASPECTS, Client, GradingError, five_aspects, question_answer
from tests.graders.service import Reply, choice, served

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
GRADES = dict(zip(ASPECTS, (9, 7.5, 8, 10, 0), strict=True))
PROMPT = 'a "red" {wolf}'


def client(service, **settings):
    return Client(url=service.url, model="critic", timeout=5.0, backoff=0.0, **settings)


# ------------------------------------------------------------------------------------ five aspects


def test_the_score_is_the_mean_of_five_aspects():
    """Kills: a picture that is not sent losslessly; a sum; the scale of 0 to 10."""
    with served(lambda number, asked: choice(json.dumps(GRADES))) as service:
        grade = five_aspects(client(service)).grade(IMAGE, PROMPT)
        few = five_aspects(client(service), aspects=["originality", "visual_quality"])
        assert few.grade(IMAGE, PROMPT).score == pytest.approx(77.5)
    assert grade.score == pytest.approx(10 * sum(GRADES.values()) / 5)
    assert (grade.details, grade.attempts) == (GRADES, 1)
    asked = service.asked[0]
    np.testing.assert_array_equal(asked.image, IMAGE)
    assert json.dumps(PROMPT) in asked.text
    assert all(f'"{one}"' in asked.text for one in ASPECTS)
    schema = asked.body["response_format"]["json_schema"]["schema"]
    assert schema["required"] == list(ASPECTS)
    assert asked.body["temperature"] == 0.0


def test_grey_pictures_are_sent_grey():
    with served(lambda number, asked: choice(json.dumps(GRADES))) as service:
        five_aspects(client(service)).grade(IMAGE[..., :1], PROMPT)
    np.testing.assert_array_equal(service.asked[0].image, IMAGE[..., 0])


@pytest.mark.parametrize(
    ("format", "sent"),
    [("json_object", {"type": "json_object"}), ("none", None)],
)
def test_servers_that_know_no_schema(format, sent):
    fenced = f"```json\n{json.dumps(GRADES)}\n```"
    with served(lambda number, asked: choice(fenced)) as service:
        grader = five_aspects(client(service), response_format=format)
        assert grader.grade(IMAGE, PROMPT).details == GRADES
    assert service.asked[0].body.get("response_format") == sent


BAD = {
    "prose": ("It is lovely: 9 of 10.", "the answer is no JSON: 'It is lovely: 9 of 10.'"),
    "a list": ("[9, 8, 7, 6, 5]", "the answer is no object"),
    "nothing": (None, "the answer has no text"),
    "one missing": (json.dumps({**GRADES, "originality": None}), "originality is None"),
    "a text": (json.dumps({**GRADES, "originality": "8"}), "originality is '8'"),
    "a truth": (json.dumps({**GRADES, "originality": True}), "originality is True"),
    "too much": (json.dumps({**GRADES, "originality": 85}), r"originality is 85: .* \[0, 10\]"),
    "below": (json.dumps({**GRADES, "originality": -1}), "originality is -1"),
    "no number": (json.dumps({**GRADES, "originality": math.nan}), "originality is nan"),
    "half": (json.dumps(GRADES)[:40], "the answer is no JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_answer_that_says_nothing_is_asked_for_again_and_never_a_number(kind):
    """Kills: an aspect that is missing and counts as 0, or not at all; numbers off the scale."""
    content, reason = BAD[kind]
    replies = [choice(content), choice(json.dumps(GRADES))]
    with served(lambda number, asked: replies[number]) as service:
        assert five_aspects(client(service)).grade(IMAGE, PROMPT).attempts == 2
    failing = pytest.raises(GradingError, match=reason)
    with served(lambda number, asked: replies[0]) as service, failing:
        five_aspects(client(service, retries=1)).grade(IMAGE, PROMPT)
    assert len(service.asked) == 2


def test_an_answer_that_ran_out_of_room_is_a_failure():
    reply = choice(json.dumps(GRADES), finish_reason="length")
    failing = pytest.raises(GradingError, match=r"cut off \(finish_reason: length\)")
    with served(lambda number, asked: reply) as service, failing:
        five_aspects(client(service, retries=0)).grade(IMAGE, PROMPT)


# ----------------------------------------------------------------------------- question and answer


def listed(*tokens) -> Reply:
    """An answer whose first token has these probabilities."""
    entries = [{"token": token, "logprob": math.log(p)} for token, p in tokens]
    first = {"token": tokens[0][0], "logprob": 0.0, "top_logprobs": entries}
    return choice(tokens[0][0], logprobs={"content": [first]})


ANSWERS = {  # what is listed, and the probabilities of Yes and No
    "yes": ([("Yes", 0.7), ("No", 0.2)], 0.7, 0.2),
    "in all its forms": (
        [("No", 0.4), (" yes", 0.2), ("Yes", 0.1), ("YES", 0.05), ("Yesterday", 0.25)],
        0.35,
        0.4,
    ),
    "no alone": ([("No", 0.9), ("Not", 0.04), ("no", 0.03)], 0.03, 0.93),
    "no and little left": ([("No", 0.9), ("Not", 0.0999)], 0.0001, 0.9),
    "yes alone": ([("Yes", 1.0)], 1.0, 0.0),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_the_score_is_the_probability_of_yes(kind):
    """Kills: the log-probability itself; the likeliest token alone; another word that begins so; a
    Yes that is not listed taken for impossible.
    """
    tokens, yes, no = ANSWERS[kind]
    with served(lambda number, asked: listed(*tokens)) as service:
        grade = question_answer(client(service)).grade(IMAGE, PROMPT)
        ratio = question_answer(client(service), form="ratio").grade(IMAGE, PROMPT)
    assert grade.score == pytest.approx(yes, abs=1e-9)
    assert grade.details["no"] == pytest.approx(no, abs=1e-9)
    assert ratio.score == pytest.approx(yes / (yes + no))
    asked = service.asked[0]
    assert asked.text == f'Does this figure show "{PROMPT}"? Please answer Yes or No.'
    body = asked.body
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
    np.testing.assert_array_equal(asked.image, IMAGE)


def test_a_question_of_ones_own():
    with served(lambda number, asked: listed(("Yes", 0.5))) as service:
        question_answer(client(service), question="{} - is it?").grade(IMAGE, PROMPT)
    assert service.asked[0].text == f"{PROMPT} - is it?"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (listed(("The", 0.6), ("I", 0.3)), "begins with 'The', 'I': neither Yes nor No is listed"),
        (choice("Yes"), "no log-probabilities of its first token"),
        (choice("Yes", logprobs=None), "no log-probabilities"),
        (choice("Yes", logprobs={"content": []}), "no log-probabilities"),
        (
            choice("Yes", logprobs={"content": [{"top_logprobs": []}]}),
            "the response's log-probabilities are none",
        ),
        (
            choice("Yes", logprobs={"content": [{"top_logprobs": [{"token": "Yes"}]}]}),
            "no log-probabilities",
        ),
        (
            choice(
                "Yes", logprobs={"content": [{"top_logprobs": [{"token": "Yes", "logprob": 7}]}]}
            ),
            "log-probabilities are none",
        ),
    ],
)
def test_answers_without_probabilities_are_failures(reply, reason):
    """Kills: a text that says Yes taken for certain."""
    failing = pytest.raises(GradingError, match=reason)
    with served(lambda number, asked: reply) as service, failing:
        question_answer(client(service, retries=0)).grade(IMAGE, PROMPT)


# ----------------------------------------------------------------------------------------- settings


NOBODY = Client(url="http://127.0.0.1:9/v1", model="critic")


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (five_aspects, {"aspects": ["beauty"]}, "aspects has 'beauty': there are accuracy_to_p"),
        (five_aspects, {"aspects": []}, "aspects is empty"),
        (five_aspects, {"response_format": "xml"}, "response_format is 'xml'"),
        (question_answer, {"question": "Is it?"}, "'Is it.' must have one {}"),
        (question_answer, {"form": "logit"}, "form is 'logit'"),
        (question_answer, {"top_logprobs": 1}, r"top_logprobs is 1: it must lie in \[2, 20\]"),
    ],
)
def test_settings_are_checked(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(NOBODY, **settings)


def test_what_grades_hang_on_is_in_the_identity():
    """Kills: answers of another model, question or scale taken for one's own; a key kept."""
    other = Client(url=NOBODY.url, model="other")
    keyed = Client(url=NOBODY.url, model="critic", api_key="secret", timeout=3.0)
    made = [
        five_aspects(NOBODY), five_aspects(other), five_aspects(NOBODY, aspects=["originality"]),
        five_aspects(NOBODY, temperature=0.5), question_answer(NOBODY), question_answer(other),
        question_answer(NOBODY, form="ratio"), question_answer(NOBODY, question="{}?"),
    ]  # fmt: skip
    assert len({one.identity for one in made}) == len(made)
    assert five_aspects(keyed).identity == five_aspects(NOBODY).identity
    assert five_aspects(NOBODY, name="a").identity == five_aspects(NOBODY, name="b").identity
