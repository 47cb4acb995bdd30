"""Searches that graders and verifiers guide together, by the loop of the host."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.aggregate import mean_rank, total, weighted, worst
from jaxsearch.core.host import search_on_host
from jaxsearch.core.search import result_of, search
from jaxsearch.core.types import ESTIMATE, Verifier
from jaxsearch.graders import Client, Panel, five_aspects, function, mixed
from tests import cases, toys
from tests.graders.service import Reply, choice, served
from tests.graders.test_questions import GRADES

KEY = jax.random.key(3)
PROMPTS = toys.prompts(3)
TEXTS = ["one", "two", "three"]


def corner(params, images, context):
    """What the grader below says too: how bright the levels of a corner are."""
    del params, context
    levels = jnp.floor(jnp.clip(images, 0, 1) * 255 + 0.5)
    return jnp.mean(levels[:, :2, :2, 0], axis=(1, 2)) / 255


CORNER = Verifier(name="corner", apply=corner)


def grader(calls=None, name="corner"):
    def grade(image, prompt):
        if calls is not None:
            calls.append((image.tobytes(), prompt))
        return image[:2, :2, 0].mean() / 255

    return function(name, grade, identity="corner 1")


def problem(aggregate, verifiers=(toys.near_target, CORNER)):
    made = toys.problem(cases.solvers()["ddim"], verifiers=verifiers)
    objective = dataclasses.replace(made.objective, aggregate=aggregate)
    return dataclasses.replace(made, objective=objective)


def found(searcher, aggregate, score, **more):
    one = cases.SEARCHERS[searcher].searcher
    *_, last = search_on_host(KEY, one, problem(aggregate), PROMPTS, score, **more)
    return result_of(last)


AGGREGATES = {
    "total": total(),
    "weighted": weighted(weights=[0.3, 2.0]),
    "worst": worst(),
    "mean_rank": mean_rank(),
}


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("microbatch", [None, 5])
def test_a_mix_is_the_search_with_both_on_the_device(aggregate, microbatch):
    """Kills: columns exchanged; one prompt's context for another's; rows of a batch twice or not at
    all; a call more or less.
    """
    score = mixed(
        Panel([grader()]), PROMPTS, TEXTS, verifiers=[toys.near_target], microbatch=microbatch
    )
    on_host = found("best_of_n", AGGREGATES[aggregate], score)
    wanted = search(
        KEY, cases.SEARCHERS["best_of_n"].searcher, problem(AGGREGATES[aggregate]), PROMPTS
    )
    np.testing.assert_allclose(on_host.score, wanted.score, atol=1e-5)
    np.testing.assert_allclose(on_host.particle.x, wanted.particle.x, atol=1e-5)
    np.testing.assert_array_equal(on_host.cost.verifier_calls, wanted.cost.verifier_calls)


def spied(score):
    """The score, and all that it was asked and has said."""
    kept = []

    def spy(images, ids):
        kept.append((images, ids, score(images, ids)))
        return kept[-1][-1]

    return spy, kept


@pytest.mark.parametrize(("fraction", "asked"), [(0.25, 1), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_graders_are_asked_about_the_best_that_verifiers_leave(fraction, asked):
    """Of four candidates of each of three prompts. Kills: the worst; the best of all prompts
    together; a share that is rounded down; calls that are counted and not made.
    """
    calls = []
    panel = Panel([grader(calls)])
    score, kept = spied(
        mixed(panel, PROMPTS, TEXTS, verifiers=[toys.near_target], fraction=fraction)
    )
    result = found("best_of_n", total(), score)
    ((images, ids, said),) = kept
    assert len(calls) == panel.asked == 3 * asked
    np.testing.assert_array_equal(result.cost.verifier_calls, 4 + asked)
    for row, prompt in enumerate(np.asarray(PROMPTS.ids)):
        own = np.flatnonzero(ids == prompt)
        first = own[np.argsort(-said.scores[own, 0], kind="stable")[:asked]]
        assert set(own[said.asked[own, 1]]) == set(first)
        levels = np.floor(images[first] * 255 + 0.5).astype(np.uint8)
        assert {(one.tobytes(), TEXTS[row]) for one in levels} <= set(calls)
        best = first[np.argmax(said.scores[first].sum(axis=1))]
        np.testing.assert_allclose(result.score[row], said.scores[best].sum(), rtol=1e-6)
    assert np.isnan(said.scores[~said.asked]).all()
    assert np.isfinite(said.scores[said.asked]).all()


def test_how_several_verifiers_choose_is_a_setting():
    """By the sum of two of very different scales the larger one chooses, by ranks neither."""
    loud = Verifier(name="loud", apply=lambda params, images, context: 1e4 * images[:, 3, 3, 0])
    chosen = []
    for leave_by in (None, total()):
        score, kept = spied(
            mixed(
                Panel([grader()]), PROMPTS, TEXTS, verifiers=[toys.near_target, loud],
                fraction=0.5, leave_by=leave_by,
            )
        )  # fmt: skip
        three = problem(mean_rank(), (toys.near_target, loud, CORNER))
        one = cases.SEARCHERS["best_of_n"].searcher
        list(search_on_host(KEY, one, three, PROMPTS, score))
        chosen.append(kept[0][2])
    by_rank, by_sum = (one.asked[:, 2] for one in chosen)
    assert np.any(by_rank != by_sum)
    loudest = chosen[1].scores[:, 1].reshape(3, 4)
    np.testing.assert_array_equal(by_sum.reshape(3, 4), loudest >= np.sort(loudest)[:, 2:3])


def test_what_a_verifier_has_failed_is_shown_to_nobody():
    """Kills: a grader that is paid for what cannot win."""
    half = toys.judge(fraction=0.5, value=float("nan"))
    panel = Panel([grader()])
    score, kept = spied(mixed(panel, PROMPTS, TEXTS, verifiers=[half]))
    found("best_of_n", total(), score)
    ((_, _, said),) = kept
    failed = np.isnan(said.scores[:, 0])
    assert 0 < failed.sum() < len(failed)
    np.testing.assert_array_equal(said.asked[:, 1], ~failed)


def test_a_search_by_steps_goes_on_when_candidates_are_left_out():
    score = mixed(Panel([grader()]), PROMPTS, TEXTS, verifiers=[toys.near_target], fraction=0.5)
    one = cases.SEARCHERS["epsilon_greedy"].searcher
    made = toys.problem(cases.solvers()["heun_edm"])
    *_, last = search_on_host(KEY, one, made, PROMPTS, score)
    result = result_of(last)
    assert np.isfinite(result.score).all()
    np.testing.assert_array_equal(result.particle.step, cases.NUM_STEPS)
    images = np.asarray(made.objective.decoder(result.particle.x))
    again = score(images, np.asarray(PROMPTS.ids)).scores.sum(axis=1)
    np.testing.assert_allclose(result.score, again, atol=1e-2)


def test_a_service_guides_a_search_and_what_fails_never_wins(tmp_path):
    """Every third image gets no answer. Kills: a failure that counts as 0 among grades below it; a
    search that asks again after it was taken up.
    """
    ill = set()

    def answer(number, asked):
        if number % 3 == 0:
            ill.add(asked.image.tobytes())
        if asked.image.tobytes() in ill:
            return Reply(b"", status=400)
        return choice(json.dumps(dict.fromkeys(GRADES, float(asked.image.mean() / 256))))

    one = cases.SEARCHERS["zero_order"].searcher
    made = toys.problem(cases.solvers()["ddim"])
    with served(answer) as service:
        critic = five_aspects(Client(url=service.url, model="critic", timeout=9.0))
        panel = Panel([critic], cache=tmp_path / "grades.sqlite", concurrency=1)
        score = mixed(panel, PROMPTS, TEXTS)
        states = list(search_on_host(KEY, one, made, PROMPTS, score))
        result = result_of(states[-1])
        assert len(panel.failures) >= len(service.asked) // 3 - 1
        images = np.asarray(made.objective.decoder(result.particle.x))
        assert not any(
            image.tobytes() in ill for image in np.floor(images * 255 + 0.5).astype(np.uint8)
        )
        asked, failed = len(service.asked), len(panel.failures)
        again = Panel([critic], cache=tmp_path / "grades.sqlite", concurrency=1)
        score = mixed(again, PROMPTS, TEXTS)
        *_, last = search_on_host(KEY, one, made, PROMPTS, score, state=states[0])
        np.testing.assert_array_equal(last.score, states[-1].score)
        # What had failed is asked again, nothing else.
        assert len(service.asked) - asked == again.asked <= failed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0.0}, r"fraction is 0.0: it must lie in \(0, 1\]"),
        ({"fraction": 1.5, "verifiers": [CORNER]}, "fraction is 1.5"),
        ({"fraction": 0.5}, "fraction is 0.5: without a verifier nobody chooses"),
        ({"microbatch": 0}, "microbatch is 0"),
        ({"texts": ["one"]}, "there are 1 texts for 3 prompts"),
        (
            {"verifiers": [dataclasses.replace(CORNER, needs=(ESTIMATE,))]},
            "corner needs a clean estimate of the sampler",
        ),
    ],
)
def test_settings_are_checked(settings, message):
    texts = settings.pop("texts", TEXTS)
    with pytest.raises(ValueError, match=message):
        mixed(Panel([grader()]), PROMPTS, texts, **settings)
