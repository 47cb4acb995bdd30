"""What holds for every verifier that the command offers, on files of the published forms."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsearch
from jaxsearch.core.gradients import differentiable
from jaxsearch.core.types import Verifier
from jaxsearch.searchers import best_of_n
from jaxsearch.verifiers import VERIFIERS
from jaxsearch.verifiers.facts import facts_of
from jaxsearch.zoo.digits.entry import ENTRY
from jaxsearch.zoo.verifiers import PUBLISHED, Early, Prompted
from tests import cases, toys
from tests.jitted import called
from tests.zoo import checkpoints

pytest.importorskip("torch")
pytest.importorskip("transformers")

FACTORIES = {**VERIFIERS, **PUBLISHED, **ENTRY.verifiers}
CASES = (*VERIFIERS, *ENTRY.verifiers, *checkpoints.NAMES)
every_case = pytest.mark.parametrize("case", CASES)
NUM = 8


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        found = checkpoints.write_all(tmp_path_factory.mktemp("checkpoints"), patch)
        assert set(found) == set(checkpoints.NAMES)
        yield found


@pytest.fixture
def built(case, settings):
    """A verifier, its factory, and a context of eight different prompts."""
    factory = FACTORIES[case.split()[0]]
    return *context_of(factory(**settings.get(case, {}))), factory


def context_of(made, rows: slice = slice(None)) -> tuple[Verifier, dict]:
    """A verifier and what it needs of the prompts, for those rows of the pictures."""
    context = {
        "label": jnp.arange(NUM) % checkpoints.CLASSES,
        "estimate": pictures(1)[::-1],
    }
    if isinstance(made, Prompted):
        context |= made.context([f"the {name}" for name in "abcdefgh"])
    verifier = made.verifier if isinstance(made, Prompted | Early) else made
    return verifier, {key: context[key][rows] for key in verifier.needs}


@functools.cache
def pictures(seed: int = 0, height: int = 32, width: int = 32, channels: int = 3) -> jax.Array:
    """[8,h,w,c]: black, white, noise of several strengths, and slopes."""
    rng = np.random.default_rng(seed)
    noise = (
        rng.uniform(size=(4, height, width, channels))
        * np.array([1, 0.7, 0.4, 0.1])[:, None, None, None]
    )
    down = np.broadcast_to(np.linspace(0, 1, height)[:, None, None], (height, width, channels))
    across = np.broadcast_to(np.linspace(0.2, 0.6, width)[:, None], (height, width, channels))
    ends = np.stack([np.zeros_like(down), np.ones_like(down), down, across])
    return jnp.asarray(np.concatenate([ends, noise]), jnp.float32)


def test_every_verifier_has_a_case_and_facts():
    assert {case.split()[0] for case in CASES} == set(FACTORIES)
    for factory in FACTORIES.values():
        low, high = facts_of(factory).range
        assert low < high


@every_case
def test_scores(built):
    """Shape, type, range, finite on black and white; each image for itself and in any company.

    Kills: a row scored by another's prompt; a range that is not what the list says; a pixel that is
    not finite and gives a number.
    """
    verifier, context, factory = built
    facts, images = facts_of(factory), pictures()
    scores = called(verifier, images, context)
    assert (scores.shape, scores.dtype) == ((NUM,), jnp.float32)
    assert np.isfinite(scores).all()
    assert np.all((scores >= facts.range[0]) & (scores <= facts.range[1]))
    assert len({round(float(one), 5) for one in scores}) > 3  # it looks at what it is given
    order = np.array([3, 0, 5, 1, 4, 2, 7, 6])
    turned = called(verifier, images[order], {key: one[order] for key, one in context.items()})
    np.testing.assert_allclose(turned, scores[order], rtol=1e-4, atol=1e-6)
    few = slice(2, 5)
    alone = called(verifier, images[few], {key: one[few] for key, one in context.items()})
    np.testing.assert_allclose(alone, scores[few], rtol=1e-4, atol=1e-6)
    bad = called(verifier, images.at[2, 0, 0, 0].set(jnp.nan), context)
    assert np.isnan(bad).tolist() == [False, False, True, *[False] * 5]
    np.testing.assert_allclose(bad[3:], scores[3:], rtol=1e-4, atol=1e-6)


@every_case
def test_sides_and_grey_pictures(built, case):
    verifier, context, _ = built
    # The digits' own take what the digits' decoder gives: squares of whole pixels.
    for shape in ((24, 24, 1), *([] if case in ENTRY.verifiers else [(40, 33, 3)])):
        sized = {**context}
        if "estimate" in context:
            sized["estimate"] = pictures(1, *shape)
        scores = called(verifier, pictures(0, *shape), sized)
        assert np.isfinite(scores).all()
        assert len({round(float(one), 5) for one in scores}) > 3


@every_case
def test_what_it_needs_is_what_the_list_says(built):
    verifier, context, factory = built
    wanted = facts_of(factory).needs
    texts = ("clip_text", "hps_text", "image_reward_tokens", "pick_score_text", "siglip_text")
    read = dict.fromkeys(texts, "prompt")
    assert tuple(read.get(need, need) for need in verifier.needs) == wanted
    for need in verifier.needs:
        less = {key: one for key, one in context.items() if key != need}
        with pytest.raises(ValueError, match=f"needs '{need}'"):
            verifier(pictures(), less)


@every_case
def test_the_gradient_is_where_the_list_says(case, settings):
    """Finite, and upwards: a small step along it raises the scores that it says it moves."""
    factory = FACTORIES[case.split()[0]]
    given, gradient = settings.get(case, {}), facts_of(factory).gradient
    few = slice(2, 6)  # neither black nor white
    images = jnp.clip(pictures()[few], 0.02, 0.98)

    def slope(verifier, context):
        def total(images):
            return jnp.sum(differentiable(verifier(images, context), images, "it"))

        return jax.jit(jax.grad(total))(images)

    if gradient != "yes":
        with pytest.raises(ValueError, match="it has no gradient"):
            slope(*context_of(factory(**given), few))
    if gradient == "no":
        return
    more = {"path": "float"} if gradient == "path=float" else {}
    verifier, context = context_of(factory(**given, **more), few)
    found = slope(verifier, context)
    assert np.isfinite(found).all()
    length = jnp.sqrt(jnp.sum(found**2, axis=(1, 2, 3), keepdims=True))
    scores = called(verifier, images, context)
    moved = called(verifier, images + 1e-2 * found / jnp.maximum(length, 1e-12), context)
    # CLIPScore is flat where the cosine is negative, a probability where it is 0 or 1.
    steep = np.asarray(1e-2 * length.ravel() > 1e-3 * np.ptp(scores))
    assert steep.any()
    assert np.all(np.asarray(moved > scores)[steep])


@pytest.mark.parametrize("case", ["clip_score", "torchvision_classifier", "zero_shot"])
def test_thousands_of_candidates_in_microbatches(built):
    """2000 candidates of two prompts in microbatches of 96 are those of all at once.

    Kills: a context that is looked up by the place in the microbatch; the padding of the last one.
    """
    verifier, context, _ = built
    prompts = toys.prompts(2)
    prompts = prompts._replace(context={key: one[:2] for key, one in context.items()})
    problem = toys.problem(cases.solvers()["ddim"], verifiers=(verifier,))
    search = functools.partial(
        jaxsearch.search, jax.random.key(0), best_of_n(candidates=1000), problem, prompts
    )
    whole, parts = search(), search(microbatch=96)
    np.testing.assert_array_equal(parts.particle.noise.coefs, whole.particle.noise.coefs)
    np.testing.assert_allclose(parts.score, whole.score, rtol=1e-5)
    found = called(verifier, problem.objective.decoder(parts.particle.x), prompts.context)
    np.testing.assert_allclose(found, parts.score, rtol=1e-4, atol=1e-6)
    assert parts.cost.verifier_calls.tolist() == [1000, 1000]


@pytest.mark.parametrize("case", checkpoints.NAMES)
def test_how_far_scores_move_between_the_paths(case, settings, record_property):
    """On pictures that are no levels yet, over the spread of the scores: not nothing, and little.

    Kills: a path that is not honoured; other preprocessing on one of them.
    """
    factory, images = FACTORIES[case.split()[0]], 0.1 + 0.8 * pictures(2, 48, 48)
    scores = []
    for path in ("8bit", "float"):
        verifier, context = context_of(factory(**settings[case], path=path))
        if "estimate" in context:
            context["estimate"] = 0.1 + 0.8 * pictures(3, 48, 48)
        scores.append(np.asarray(called(verifier, images, context)))
    moved = float(np.max(np.abs(scores[0] - scores[1])) / np.ptp(scores[1]))
    record_property("moved", moved)
    assert 1e-6 < moved < 0.05


def test_a_predictor_goes_with_the_encoder_it_was_trained_on(settings):
    """Kills: version 2.5 on CLIP, or any on DINOv2, where the number of features happens to fit."""
    heads = {case: settings[case]["head"] for case in ("aesthetic", "aesthetic 2.5")}
    wrong = (("self_supervised", "aesthetic 2.5"), ("clip_score", "aesthetic 2.5"))
    for other, head in (*wrong, ("siglip_score", "aesthetic")):
        with pytest.raises(ValueError, match="give the encoder that it was trained on"):
            PUBLISHED["aesthetic"](weights=settings[other]["weights"], head=heads[head])
