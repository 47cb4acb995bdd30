"""Verifiers that compare embeddings: known answers on networks made here, and the laws of all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.models.aesthetic import AestheticHead
from jaxsearch.models.clip import clip_image_network, clip_text_embedding_network, load_clip
from jaxsearch.verifiers.aesthetic import aesthetic
from jaxsearch.verifiers.clip_score import PREFIX, clip_score, clip_text
from jaxsearch.verifiers.dinov2_classifier import dinov2_classifier
from jaxsearch.verifiers.embeddings import cosine, unit
from jaxsearch.verifiers.pick_score import pick_score
from jaxsearch.verifiers.self_supervised import self_supervised, self_supervised_similarity
from jaxsearch.verifiers.siglip_score import siglip_score
from jaxsearch.verifiers.zero_shot import class_embeddings, zero_shot

SIDE, FEATURES, CLASSES = 4, 3, 5


def preprocess(images):
    return (images - 0.5) / 0.25


def embed(params, images):
    """The mean colour, turned."""
    return jnp.mean(images, axis=(1, 2)) @ params


def random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


IMAGES = random(0, 6, SIDE, SIDE, 3)
TURN = random(1, 3, FEATURES) - 0.3
TEXTS = random(2, 6, FEATURES) - 0.5
EMBEDDINGS = np.asarray(embed(TURN, preprocess(IMAGES)), np.float64)
HEAD = AestheticHead(random(3, FEATURES), jnp.float32(5.25), "clip")
NAMES = random(4, CLASSES, FEATURES) - 0.5
SCALE, BIAS = jnp.float32(1.5), jnp.float32(-2.0)
CONTEXT = {
    "clip_text": TEXTS,
    "pick_score_text": TEXTS,
    "siglip_text": TEXTS,
    "label": jnp.asarray([0, 4, 2, 2, 1, 3], jnp.int32),
    "estimate": random(5, 6, SIDE, SIDE, 3),
}


def angle(one, two) -> np.ndarray:
    one, two = np.asarray(one, np.float64), np.asarray(two, np.float64)
    return (one * two).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(two, axis=-1)


COSINES = angle(EMBEDDINGS, TEXTS)
ALL = angle(EMBEDDINGS[:, None], np.asarray(NAMES)[None])
PICKED = (np.arange(6), np.asarray(CONTEXT["label"]))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x)
    return powers / powers.sum(axis=-1, keepdims=True)


def with_preprocess(build, *args, **settings):
    return lambda: build("it", embed, TURN, *args, preprocess=preprocess, **settings)


BUILT = {
    "clip cosine": (with_preprocess(clip_score), COSINES),
    "clip score": (
        with_preprocess(clip_score, form="clip_score"),
        2.5 * np.maximum(COSINES, 0.0),
    ),
    "pick score": (with_preprocess(pick_score, SCALE), np.exp(1.5) * COSINES),
    "zero-shot cosine": (with_preprocess(zero_shot, NAMES), ALL[PICKED]),
    "zero-shot probability": (
        with_preprocess(zero_shot, NAMES, score="probability", logit_scale=SCALE),
        softmax(np.exp(1.5) * ALL)[PICKED],
    ),
    "aesthetic": (
        with_preprocess(aesthetic, HEAD.weight, HEAD.bias),
        angle(EMBEDDINGS, np.asarray(HEAD.weight)) * np.linalg.norm(HEAD.weight) + 5.25,
    ),
    "self-supervised": (
        with_preprocess(self_supervised),
        angle(EMBEDDINGS, embed(TURN, preprocess(CONTEXT["estimate"]))),
    ),
    "classifier logit": (with_preprocess(lambda *a, **k: classifier(*a, **k)), None),
    "classifier probability": (
        with_preprocess(lambda *a, **k: classifier(*a, score="probability", **k)),
        None,
    ),
    "siglip cosine": (with_preprocess(siglip_score, SCALE, BIAS, score="cosine"), COSINES),
    "siglip logit": (
        with_preprocess(siglip_score, SCALE, BIAS, score="logit"),
        np.exp(1.5) * COSINES - 2.0,
    ),
    "siglip probability": (
        with_preprocess(siglip_score, SCALE, BIAS),
        1 / (1 + np.exp(2.0 - np.exp(1.5) * COSINES)),
    ),
}


def logits(params, images):
    return 3.0 * embed(params, images) @ NAMES.T


def classifier(name, network, params, **settings):
    del network
    return dinov2_classifier(name, logits, params, **settings)


EVERY = 3.0 * EMBEDDINGS @ np.asarray(NAMES, np.float64).T
WANTED = {
    **{name: wanted for name, (_, wanted) in BUILT.items()},
    "classifier logit": EVERY[PICKED],
    "classifier probability": softmax(EVERY)[PICKED],
}


@pytest.mark.parametrize("name", BUILT)
def test_known_answers(name):
    """In float64 and by their formulas. Kills: no preprocessing; the weight or the floor of
    CLIPScore left out; embeddings of any length compared; another class; scale or bias left out or
    taken as it is.
    """
    build, _ = BUILT[name]
    found = build()(IMAGES, CONTEXT)
    assert (found.shape, found.dtype) == ((6,), jnp.float32)
    np.testing.assert_allclose(found, WANTED[name], rtol=2e-5, atol=2e-6)
    assert np.ptp(WANTED[name]) > 1e-2


def test_the_examples_tell_the_forms_apart():
    assert COSINES.min() < -0.1 < 0.1 < COSINES.max()


@pytest.mark.parametrize("name", BUILT)
def test_laws(name):
    """Finite on black, white and random images; each for itself; under jit, with a gradient."""
    build, _ = BUILT[name]
    verifier = build()
    images = IMAGES.at[0].set(0.0).at[1].set(1.0)
    score = jax.jit(lambda verifier, images, context: verifier(images, context))
    whole = score(verifier, images, CONTEXT)
    assert bool(jnp.all(jnp.isfinite(whole)))
    order = np.asarray([3, 0, 5, 1, 4, 2])
    turned = score(verifier, images[order], {k: v[order] for k, v in CONTEXT.items()})
    np.testing.assert_allclose(turned, whole[order], rtol=1e-5, atol=1e-6)
    alone = score(verifier, images[2:3], {k: v[2:3] for k, v in CONTEXT.items()})
    np.testing.assert_allclose(alone, whole[2:3], rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda images: jnp.sum(verifier(images, CONTEXT)))(images)
    assert bool(jnp.all(jnp.isfinite(slope)))
    assert float(jnp.max(jnp.abs(slope))) > 1e-4


@pytest.mark.parametrize("name", BUILT)
def test_equal_settings_are_one_program(name):
    """Kills: a function that is new for each verifier."""
    build, _ = BUILT[name]
    traces = []

    @jax.jit
    def score(verifier, images, context):
        traces.append(None)
        return verifier(images, context)

    score(build(), IMAGES, CONTEXT)
    score(build(), IMAGES, CONTEXT)
    assert len(traces) == 1


@pytest.mark.parametrize("name", BUILT)
def test_what_the_context_lacks_is_named(name):
    build, _ = BUILT[name]
    verifier = build()
    assert len(verifier.needs) == (0 if name == "aesthetic" else 1)
    for need in verifier.needs:
        with pytest.raises(ValueError, match=f"needs '{need}'"):
            verifier(IMAGES, {})


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (clip_score, {"form": "dot"}, "form is 'dot': it must be 'cosine' or 'clip_score'"),
        (
            zero_shot,
            {"classes": NAMES, "score": "logit"},
            "score is 'logit': it must be 'cosine' o",
        ),
        (zero_shot, {"classes": NAMES, "logit_scale": np.inf}, "logit_scale is inf"),
        (dinov2_classifier, {"score": "cosine"}, "score is 'cosine': it must be 'logit' or 'proba"),
        (
            siglip_score,
            {"logit_scale": SCALE, "logit_bias": BIAS, "score": "x"},
            "score is 'x': it must be 'cosine', 'logit' or 'probability'",
        ),
    ],
)
def test_settings_are_checked(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build("it", embed, TURN, preprocess=preprocess, **settings)


def test_prompts_of_clip_score_have_its_prefix():
    assert clip_text("a red wolf", "cosine") == "a red wolf"
    assert (
        clip_text("a red wolf", "clip_score")
        == "A photo depicts a red wolf"
        == PREFIX + "a red wolf"
    )
    with pytest.raises(ValueError, match="form is 'dot'"):
        clip_text("a red wolf", "dot")


def test_an_image_is_most_like_itself():
    same = self_supervised_similarity(embed, TURN, IMAGES, IMAGES, preprocess=preprocess)
    np.testing.assert_allclose(same, np.ones(6), atol=1e-6)
    assert float(jnp.max(same)) <= 1.0


def test_vectors_of_zeros_have_no_direction():
    """Kills: a division by zero, in the value or in the gradient."""
    zeros = jnp.zeros((2, 3))
    np.testing.assert_array_equal(unit(zeros), zeros)
    slope = jax.grad(lambda x: jnp.sum(cosine(x, jnp.ones((2, 3)))))(zeros)
    assert bool(jnp.all(jnp.isfinite(slope)))
    np.testing.assert_allclose(unit(jnp.asarray([[3.0, 4.0]])), [[0.6, 0.8]], rtol=1e-6)


def test_classes_are_the_mean_direction_of_their_texts():
    """Kills: texts of any length averaged; the mean as long as it comes out; names not put in."""
    vectors = {
        "a cat.": [3.0, 0.0, 0.0],
        "the cat!": [0.0, 0.5, 0.0],
        "a {dog}.": [0.0, 0.0, 2.0],
        "the {dog}!": [0.0, 0.0, 1.0],
    }

    def encode(texts):
        return jnp.asarray([vectors[text] for text in texts])

    found = class_embeddings(encode, ["cat", "{dog}"], templates=["a {}.", "the {}!"])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found, [[half, half, 0.0], [0.0, 0.0, 1.0]], atol=1e-6)
    with pytest.raises(ValueError, match="classes is empty"):
        class_embeddings(encode, [])
    with pytest.raises(ValueError, match="templates is empty"):
        class_embeddings(encode, ["cat"], templates=[])
    with pytest.raises(ValueError, match="the template 'a cat' must have one"):
        class_embeddings(encode, ["cat"], templates=["a cat"])


def test_clip_as_it_is_read_from_its_folder(tmp_path):
    """The whole way: files of `transformers`, embeddings, score."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.models.published import to_torch
    from tests.models.test_clip import IDS, pictures, theirs

    reference, folder = theirs(tmp_path)
    clip, images = load_clip(folder), pictures(17)
    encode = jax.jit(clip_text_embedding_network(clip.config))
    texts = encode(clip.texts, jnp.asarray(IDS, jnp.int32))
    verifier = clip_score(
        "clip", clip_image_network(clip.config), clip.images, preprocess=preprocess
    )
    output = reference(
        input_ids=torch.as_tensor(IDS), pixel_values=to_torch(np.asarray(preprocess(images)))
    )
    wanted = np.diag((output.logits_per_image / reference.logit_scale.exp()).numpy())
    score = jax.jit(lambda verifier, images, context: verifier(images, context))
    found = score(verifier, jnp.asarray(images), {"clip_text": texts})
    np.testing.assert_allclose(found, wanted, atol=2e-6)
