"""Graders asked about many images: what is asked once, what is kept, and what has failed."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from jaxsearch.graders import (
    Client,
    Grade,
    Grader,
    GradingError,
    Panel,
    SpentError,
    five_aspects,
    function,
)
from jaxsearch.graders.log import Log
from tests.graders.service import Reply, choice, served
from tests.graders.test_questions import GRADES

IMAGES = np.random.default_rng(0).uniform(size=(6, 4, 5, 3)).astype(np.float32)
PROMPTS = ["a cat", "a cat", "a dog", "a dog", "a cup", "a cup"]


def mean(image, prompt):
    return float(image.mean()) + len(prompt)


def counting(calls, name="mean", identity="mean 1", **more):
    def grade(image, prompt):
        calls.append((image.tobytes(), prompt))
        return mean(image, prompt)

    return function(name, grade, identity=identity, **more)


def wanted():
    levels = np.floor(IMAGES * 255 + 0.5)
    return [[image.mean() + len(prompt)] for image, prompt in zip(levels, PROMPTS, strict=True)]


def test_any_function_is_a_grader():
    """It sees the levels of the picture's file. Kills: floats; prompts of other images."""
    panel = Panel([function("mean", mean, identity="mean 1")])
    scores = panel(IMAGES, PROMPTS)
    assert (scores.shape, scores.dtype) == ((6, 1), np.float32)
    np.testing.assert_allclose(scores, wanted(), rtol=1e-6)
    assert (panel.asked, panel.found, panel.failures) == (6, 0, [])


def test_each_image_is_asked_about_once_for_each_prompt_and_grader():
    """Kills: a key without the prompt, the image, its shape or the grader; an image sent twice."""
    calls, others = [], []
    both = [counting(calls), counting(others, "other", "mean 2")]
    panel = Panel(both)
    images = np.concatenate([IMAGES, IMAGES[:2], np.zeros((1, 4, 5, 3), np.float32)])
    prompts = [*PROMPTS, "a cat", "a dog", "a cat"]
    first = panel(images, prompts)
    assert len(calls) == len(others) == 8  # the seventh is the first again
    np.testing.assert_array_equal(panel(images[::-1], prompts[::-1]), first[::-1])
    assert len(calls) == len(others) == panel.asked / 2 == 8
    panel(np.zeros((1, 5, 4, 3), np.float32), ["a cat"])
    assert len(calls) == 9


def test_grades_outlive_the_process_that_asked(tmp_path):
    """Kills: a cache that is read by nobody, or by another version of the grader."""
    calls, path = [], tmp_path / "grades.sqlite"
    first = Panel([counting(calls)], cache=path)(IMAGES, PROMPTS)
    again = Panel([counting(calls, "another_name")], cache=path)
    np.testing.assert_array_equal(again(IMAGES, PROMPTS), first)
    assert (len(calls), again.asked, again.found) == (6, 0, 6)
    Panel([counting(calls, identity="mean 2")], cache=path)(IMAGES, PROMPTS)
    assert len(calls) == 12


def test_failures_are_recorded_and_not_kept(tmp_path):
    """Kills: a failure that is a number, ends the batch, or is still there when the grader is well
    again.
    """
    ill = [True]

    def grade(image, prompt):
        if ill[0] and prompt == "a dog":
            raise RuntimeError("no\nday for dogs")
        return np.nan if ill[0] and prompt == "a cup" else 1.0

    log = tmp_path / "grades.jsonl"
    panel = Panel([function("moody", grade, identity="moody 1")], log=log)
    scores = panel(IMAGES, PROMPTS)
    np.testing.assert_array_equal(scores[:, 0], [1, 1, *[np.nan] * 4])
    assert [(one.grader, one.prompt, one.attempts) for one in panel.failures] == [
        ("moody", prompt, 1) for prompt in PROMPTS[2:]
    ]
    assert panel.failures[0].reason == "RuntimeError: no\nday for dogs"
    assert panel.failures[2].reason == "the score is nan"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line.get("score") for line in lines] == [1.0, 1.0, *[None] * 4]
    assert lines[2]["failure"] == panel.failures[0].reason
    assert len({line["key"] for line in lines}) == 6
    ill[0] = False
    np.testing.assert_array_equal(panel(IMAGES, PROMPTS)[:, 0], 1.0)
    assert (panel.asked, panel.found) == (10, 2)


def test_an_image_that_is_not_finite_is_shown_to_nobody():
    calls = []
    panel = Panel([counting(calls)])
    images = IMAGES.copy()
    images[1, 0, 0, 0] = np.inf
    scores = panel(images, PROMPTS)
    assert np.isnan(scores[:, 0]).tolist() == [False, True, *[False] * 4]
    assert len(calls) == 5
    assert "not finite" in panel.failures[0].reason


def test_who_is_not_wanted_is_not_asked():
    calls, others = [], []
    panel = Panel([counting(calls), counting(others, "other", "mean 2")])
    asked = np.zeros((6, 2), bool)
    asked[1, 0] = asked[4, 1] = True
    scores = panel(IMAGES, PROMPTS, asked)
    np.testing.assert_array_equal(np.isfinite(scores), asked)
    assert (len(calls), len(others), panel.failures) == (1, 1, [])


def test_services_are_asked_at_once_and_functions_in_turn():
    """Four questions must meet before any is answered. Kills: one after the other."""
    meeting, threads = threading.Barrier(4), set()

    def answer(number, asked):
        meeting.wait(timeout=5.0)
        return choice(json.dumps(GRADES))

    def turn(image, prompt):
        threads.add(threading.get_ident())
        return 1.0

    with served(answer) as service:
        critic = five_aspects(Client(url=service.url, model="critic", timeout=9.0, retries=0))
        panel = Panel([critic, function("turn", turn, identity="turn")], concurrency=4)
        scores = panel(IMAGES[:4], PROMPTS[:4])
    assert panel.failures == []
    np.testing.assert_allclose(scores, [[69.0, 1.0]] * 4)
    assert threads == {threading.get_ident()}


def test_a_service_that_misbehaves_now_and_then():
    """Of twelve images every kind of failure, some of which pass; each score is its own image's."""
    kinds = [Reply(b"", status=500), choice("nonsense"), Reply(b"{", lacks=9), Reply(b"", delay=9)]
    images = np.random.default_rng(1).uniform(size=(12, 3, 3, 3)).astype(np.float32)
    seen, lock = {}, threading.Lock()

    def answer(number, asked):
        image = asked.image.tobytes()
        with lock:
            seen[image] = seen.get(image, 0) + 1
            attempt = seen[image]
        place = next(i for i, one in enumerate(pictures) if one.tobytes() == image)
        if place == 11 or (place < 8 and attempt == 1):
            return kinds[place % 4] if place < 11 else Reply(b"no", status=400)
        return choice(json.dumps(dict.fromkeys(GRADES, place / 2)))

    pictures = np.floor(images * 255 + 0.5).astype(np.uint8)
    with served(answer) as service:
        patient = Client(url=service.url, model="critic", timeout=1.5, backoff=0.0, retries=2)
        panel = Panel([five_aspects(patient)], concurrency=12)
        scores = panel(images, ["a cat"] * 12)
    np.testing.assert_allclose(scores[:11, 0], 5.0 * np.arange(11))
    assert np.isnan(scores[11, 0])
    (failure,) = panel.failures
    assert (failure.reason, failure.attempts) == ("the server answers 400: no", 1)
    assert len(service.asked) == patient.requests == 12 + 8


def test_a_cap_may_end_the_batch(tmp_path):
    """What was answered is kept. Kills: answers that are paid for and thrown away; a question that
    nobody was asked, noted as a failure.
    """
    log, cache = tmp_path / "log.jsonl", tmp_path / "grades.sqlite"
    with served(lambda number, asked: choice(json.dumps(GRADES))) as service:
        for cap in (2, 9):
            client = Client(url=service.url, model="critic", max_requests=cap)
            panel = Panel([five_aspects(client)], cache=cache, log=log, halt=True)
            if cap == 2:
                with pytest.raises(SpentError, match="the cap of 2 requests") as caught:
                    panel(IMAGES, PROMPTS)
                assert caught.value.grader == "five_aspects"
            else:
                assert np.isfinite(panel(IMAGES, PROMPTS)).all()
        assert client.requests == len(service.asked) - 2
        assert len({asked.text + str(asked.image.tobytes()) for asked in service.asked}) == len(
            service.asked
        )
    lines = list(Log(log).lines())
    assert not any("failure" in line for line in lines)


def test_a_question_has_one_answer(tmp_path):
    """Two processes ask at once; the first answer that is kept is both's. Kills: scores that hang
    on who asks.
    """
    cache = tmp_path / "grades.sqlite"

    def other(image, prompt):
        one = function("mood", lambda image, prompt: 1.0, identity="mood")
        assert Panel([one], cache=cache)(IMAGES[:1], PROMPTS[:1]) == [[1.0]]
        return 2.0

    panel = Panel([function("mood", other, identity="mood")], cache=cache)
    assert panel(IMAGES[:1], PROMPTS[:1]) == [[1.0]]


def test_an_interruption_ends_the_batch():
    """Ctrl-C in a function is no failure of its. Kills: an exception of any kind that is caught."""

    def grade(image, prompt):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Panel([function("tired", grade, identity="tired")])(IMAGES, PROMPTS)


def test_a_grader_of_ones_own_says_why():
    def grade(image, prompt):
        if prompt == "a dog":
            raise GradingError("no opinion", 3)
        return Grade(2.0, {"why": "é"}, 2)

    panel = Panel([Grader("own", "own 1", grade)])
    assert np.isfinite(panel(IMAGES, PROMPTS)[:, 0]).sum() == 4
    assert {(one.reason, one.attempts) for one in panel.failures} == {("no opinion", 3)}


def test_mistakes_are_one_line(tmp_path):
    grader = function("mean", mean, identity="mean 1")
    (tmp_path / "text").write_text("this is no database, whatever it says here and there" * 9)
    for make, message in (
        (lambda: Panel([]), "there are no graders"),
        (lambda: Panel([grader, grader]), "two graders are called mean"),
        (lambda: Panel([grader], concurrency=0), "concurrency is 0"),
        (lambda: Panel([grader], cache=tmp_path / "text"), "text: file is not a database"),
        (lambda: Panel([grader], cache=tmp_path / "no" / "where"), "cannot keep grades in"),
        (lambda: Panel([grader], log=tmp_path), "cannot write"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_any_prompt_is_noted(tmp_path):
    """Kills: a search that ends because a prompt is no UTF-8, as a shell may hand it on."""
    path, prompts = tmp_path / "grades.jsonl", ["\u732b \U0001f408\n\x00", "half \udc80"]
    panel = Panel([function("mean", mean, identity="mean 1")], log=path)
    assert np.isfinite(panel(IMAGES[:2], prompts)).all()
    assert sorted(line["prompt"] for line in Log(path).lines()) == sorted(prompts)
    assert "\u732b" in path.read_text()


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        ((IMAGES * 255).astype(np.uint8), PROMPTS, "the type uint8: pass .* floats in"),
        (IMAGES[0], PROMPTS[:1], r"the shape \(4, 5, 3\)"),
        (np.zeros((6, 4, 5, 4)), PROMPTS, "c = 1 or 3"),
        (IMAGES, PROMPTS[:2], "2 prompts for 6 images"),
    ],
)
def test_what_is_no_image_is_refused(images, prompts, message):
    """Kills: levels that are taken for floats, all of them white."""
    with pytest.raises(ValueError, match=message):
        Panel([function("mean", mean, identity="mean 1")])(images, prompts)


def test_a_log_that_was_cut_off_by_a_kill_goes_on(tmp_path):
    """Kills: a line behind half of another; all lines lost; prompts of one text mixed up."""
    path = tmp_path / "grades.jsonl"
    images = np.stack([np.zeros((2, 2, 1)), np.ones((2, 2, 1))])
    for _ in range(2):
        panel = Panel(
            [function("mean", lambda image, prompt: image.mean(), identity="1")], log=path
        )
        panel(images, ["a", "a"], None, np.asarray([4, 9]))
        with path.open("a") as file:
            file.write('{"grader": "me')
    lines = list(Log(path).lines())
    assert sorted((one["id"], one["score"]) for one in lines) == [(4, 0.0)] * 2 + [(9, 255.0)] * 2
    assert path.read_text().endswith("}\n")
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="is damaged at line 1"):
        list(Log(path).lines())
