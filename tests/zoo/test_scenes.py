"""The world of scenes: captions are understood, pictures are what they say, the check is exact."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.scenes_quality import exact_rates
from jaxsearch import cli
from jaxsearch.verifiers.facts import facts_of
from jaxsearch.zoo.scenes import check, data, load, prompts
from jaxsearch.zoo.scenes.captions import (
    LENGTH,
    RELATIONS,
    TASKS,
    Request,
    prompt_set,
    read,
    sample_request,
    tokenise,
    vocabulary,
    write,
)
from jaxsearch.zoo.scenes.network import SIZES
from jaxsearch.zoo.scenes.world import (
    CELL,
    EMPTY,
    NUM_CELLS,
    NUM_KINDS,
    NUM_TINTS,
    OFFSETS,
    SIDE,
    Scene,
    cells,
    draw,
    kind_of,
)

NUM = 64
LEARNT = {"alignment": load.alignment, "attributes": load.attributes, "taste": load.taste}


def _scenes(kinds, seed=0):
    rng = np.random.default_rng(seed)
    tint = rng.integers(NUM_TINTS, size=len(kinds))
    offset = rng.integers(len(OFFSETS), size=(len(kinds), NUM_CELLS))
    return draw(Scene(jnp.asarray(tint), jnp.asarray(kinds), jnp.asarray(offset)))


def _context(requests):
    return {key: jnp.asarray(value) for key, value in check.context_of(requests).items()}


def _agreement(images, requests, form="graded"):
    return np.asarray(jax.jit(check.exact(form=form).__call__)(images, _context(requests)))


@pytest.fixture(scope="module")
def asked():
    rng = np.random.default_rng(0)
    requests = [sample_request(rng, TASKS[i % len(TASKS)]) for i in range(NUM)]
    return requests, np.stack([data.arrange(request, rng) for request in requests])


# ---------------------------------------------------------------------------------------- captions


def test_what_is_written_is_read():
    rng = np.random.default_rng(1)
    said = set()
    for i in range(3000):
        request = sample_request(rng, TASKS[i % len(TASKS)])
        assert request.task == TASKS[i % len(TASKS)]
        for text in (write(request), write(request, rng), write(request, rng).title() + "!"):
            assert read(text) == request, text
            said.update(text.lower().rstrip("!").split())
    assert said == set(vocabulary()), "each way of saying a thing is said"


def test_what_captions_mean():
    red_disc, blue_star = kind_of(0, 0), kind_of(3, 4)
    assert read("Three golden wedges.") == Request(kind_of(2, 2), 3)
    asked = Request(red_disc, 1, blue_star, RELATIONS.index("below"))
    assert read("draw the red dot beneath one azure star") == asked
    assert read("a red circle with a blue star") == Request(red_disc, 1, blue_star)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a red dragon", "the word 'dragon' is not known"),
        ("a rd circle", r"the word 'rd' is not known \(near: red\)"),
        ("two red circle", "two circle"),
        ("a red circles", "a circles"),
        ("red", "Ask for one to four things"),
        ("", "Ask for one to four things"),
        ("a red circle and a red disc", "beside another thing"),
        ("two red circles and a blue star", "beside another thing"),
        ("a red circle 红色", "the word '红色' is not known"),
        ("a réd circle", "the word 'réd' is not known"),
    ],
)
def test_what_is_no_caption_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        read(text)


def test_a_long_text_is_refused_in_a_short_line():
    """Kills: messages of as many pages as the prompt; a word of thousands of letters."""
    for text in ("a red circle and " * 2000, "x" * 30_000, "two" + " red" * 5000):
        with pytest.raises(ValueError, match="asks for no scene") as caught:
            read(text)
        assert len(str(caught.value)) < 500


def test_tokens_say_the_caption():
    texts = prompt_set(200)
    tokens = tokenise(texts)
    assert tokens.shape == (200, LENGTH)
    assert tokens.dtype == np.int32
    words = ("", *vocabulary())
    assert [" ".join(words[i] for i in row if i) for row in tokens] == texts
    assert not tokenise([""]).any()


def test_a_prompt_set_is_its_tasks_in_turn():
    texts = prompt_set(40, seed=3)
    assert len(set(texts)) == 40
    assert texts == prompt_set(40, seed=3) != prompt_set(40, seed=4)
    assert [read(text).task for text in texts] == list(TASKS) * 10
    assert {read(text).task for text in prompt_set(9, tasks=("pair",))} == {"pair"}
    with pytest.raises(ValueError, match="unknown task 'fish'"):
        prompt_set(1, tasks=("fish",))
    with pytest.raises(ValueError, match="no task is given: take single"):
        prompt_set(1, tasks=())
    with pytest.raises(ValueError, match="num is -1"):
        prompt_set(-1)


def test_a_task_has_only_so_many_captions():
    """Kills: a search for another one that never ends."""
    with pytest.raises(ValueError, match="num is 1301: after 1300 captions, 30000 more of the"):
        prompt_set(1301, tasks=("single",))


# ---------------------------------------------------------------------------------------- pictures


def test_a_picture_is_its_cells():
    kinds = np.full((1, NUM_CELLS), EMPTY)
    kinds[0, 6] = kind_of(1, 0)  # second row, third column
    image = np.asarray(draw(Scene(jnp.array([1]), jnp.asarray(kinds), jnp.zeros((1, 16), int))))[0]
    assert image.shape == (SIDE, SIDE, 3)
    ground = image[0, 0]
    differs = np.argwhere(np.any(image != ground, axis=-1))
    assert differs.min(0).tolist() >= [CELL, 2 * CELL]
    assert differs.max(0)[0] < 2 * CELL
    assert differs.max(0)[1] < 3 * CELL
    red, green, blue = image[CELL + 5, 2 * CELL + 5]
    assert red > 2 * green
    assert red > 2 * blue


def test_offsets_move_things_whole():
    table = cells()
    middle = table[0, :NUM_KINDS, 4]
    assert OFFSETS[4].tolist() == [0, 0]
    for place, (down, right) in enumerate(OFFSETS):
        moved = np.roll(middle, (down, right), axis=(1, 2))
        np.testing.assert_allclose(table[0, :NUM_KINDS, place], moved, atol=1e-6)


def test_no_two_things_look_alike():
    flat = cells()[:, :, 4].reshape(NUM_TINTS, NUM_KINDS + 1, -1)
    for one in flat:
        apart = np.sqrt(np.mean((one[:, None] - one[None]) ** 2, -1))
        assert apart[~np.eye(NUM_KINDS + 1, dtype=bool)].min() > 0.04


# ------------------------------------------------------------------------------------------- check


def test_true_scenes_are_right(asked):
    requests, kinds = asked
    images = _scenes(kinds)
    for form in ("boolean", "graded"):
        np.testing.assert_allclose(_agreement(images, requests, form), 1.0, atol=1e-3)
        noisy = images + 0.1 * jax.random.normal(jax.random.key(0), images.shape)
        np.testing.assert_allclose(_agreement(noisy, requests, form), 1.0, atol=2e-3)


def _without_one(kind, request, rng):
    kind[rng.choice(np.flatnonzero(kind != EMPTY))] = EMPTY


def _with_one_more(kind, request, rng):
    kind[rng.choice(np.flatnonzero(kind == EMPTY))] = request.first


def _with_a_stranger(kind, request, rng):
    stranger = next(k for k in range(NUM_KINDS) if k not in (request.first, request.second))
    kind[rng.choice(np.flatnonzero(kind == EMPTY))] = stranger


def _in_another_colour(kind, request, rng):
    place = rng.choice(np.flatnonzero(kind != EMPTY))
    shape, colour = divmod(kind[place], 6)
    kind[place] = kind_of(shape, (colour + 1) % 6)


def _in_another_shape(kind, request, rng):
    place = rng.choice(np.flatnonzero(kind != EMPTY))
    shape, colour = divmod(kind[place], 6)
    kind[place] = kind_of((shape + 1) % 5, colour)


FAULTS = [
    _without_one, _with_one_more, _with_a_stranger, _in_another_colour, _in_another_shape,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault_is_seen(asked, fault):
    requests, kinds = asked
    rng, kinds = np.random.default_rng(2), kinds.copy()
    for kind, request in zip(kinds, requests, strict=True):
        fault(kind, request, rng)
    images = _scenes(kinds)
    np.testing.assert_array_equal(_agreement(images, requests, "boolean"), 0.0)
    assert _agreement(images, requests).max() < 0.95


def test_a_blot_is_something_that_was_not_asked_for(asked):
    requests, kinds = asked
    images = np.array(_scenes(kinds))
    tiles = check.tiles_of(jnp.asarray(images))
    where = np.argmax(kinds == EMPTY, axis=1)
    tiles = np.array(tiles)
    tiles[np.arange(NUM), where] = 0.2
    images = tiles.reshape(NUM, 4, 4, CELL, CELL, 3).swapaxes(2, 3).reshape(images.shape)
    np.testing.assert_array_equal(_agreement(images, requests, "boolean"), 0.0)


def test_relations_are_where_things_stand():
    rng = np.random.default_rng(5)
    for index, relation in enumerate(RELATIONS):
        request = Request(0, 1, 7, index)
        for _ in range(20):
            row, column = np.divmod(data.arrange(request, rng).argsort()[:2], 4)
            down, right = row[0] - row[1], column[0] - column[1]  # of the first beside the second
            along = {"left": -right, "right": right, "above": -down, "below": down}[relation]
            assert along > 0
            assert along > min(abs(down), abs(right))
    kinds = np.full((1, NUM_CELLS), EMPTY)
    kinds[0, 4], kinds[0, 7] = 0, 7  # the first is left of the second
    images = _scenes(np.repeat(kinds, 4, axis=0))
    every = [Request(0, 1, 7, index) for index in range(4)]
    assert _agreement(images, every, "boolean").tolist() == [1.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(_agreement(images, every), [1.0, 0.5, 0.5, 0.5], atol=1e-3)


def test_graded_is_f1():
    """Three asked for and two shown: twice two over five; nothing shown: nothing."""
    kinds = np.full((2, NUM_CELLS), EMPTY)
    kinds[0, [0, 5]] = 3
    found = _agreement(_scenes(kinds), [Request(3, 3)] * 2)
    np.testing.assert_allclose(found, [0.8, 0.0], atol=1e-3)


def test_other_pictures_are_refused():
    with pytest.raises(ValueError, match="scenes are 48x48 pixels in colour, not 32x32x1"):
        check.exact()(jnp.zeros((1, 32, 32, 1)), _context([Request(0)]))
    context = prompts(["a red dot"], size="small").context
    for make in LEARNT.values():
        with pytest.raises(ValueError, match="scenes are 48x48 pixels in colour, not 32x32x3"):
            jax.eval_shape(make().__call__, jnp.zeros((1, 32, 32, 3)), context)
    with pytest.raises(ValueError, match="form is 'half'"):
        check.exact(form="half")


# ------------------------------------------------------------------------------------------ models


def test_prompts_do_not_depend_on_their_company():
    texts = prompt_set(5)
    together, alone = prompts(texts, size="small"), prompts(texts[3:4], size="small")
    np.testing.assert_array_equal(together.cond[3], alone.cond[0])
    assert together.ids[3] == alone.ids[0]
    for key, value in alone.context.items():
        np.testing.assert_array_equal(together.context[key][3], value[0])


def test_prompts_are_a_list_of_captions():
    with pytest.raises(ValueError, match="give a list of texts"):
        prompts("a red circle")
    with pytest.raises(ValueError, match="no prompts"):
        prompts([])


@pytest.mark.parametrize("size", SIZES)
def test_the_denoiser_says_both_parts_of_what_it_is_given(size):
    asked = prompts(prompt_set(2), size=size)
    denoiser = load.denoiser(size=size, guidance=3.0)
    assert denoiser.passes == 2
    x, t = jax.random.normal(jax.random.key(0), (2, SIDE, SIDE, 3)), jnp.array([0.9, 0.3])
    found = jax.jit(denoiser.__call__)(x, t, asked.cond)
    part = t[:, None, None, None]
    np.testing.assert_allclose((1 - part) * found.x0 + part * found.eps, x, atol=1e-4)
    plain = load.denoiser(size=size, guidance=1.0)
    told = plain(x, t, asked.cond).x0
    nothing = plain(x, t, jnp.stack([denoiser.params["null"]] * 2)).x0
    np.testing.assert_allclose(found.x0, nothing + 3 * (told - nothing), atol=1e-3)


def test_captions_of_another_size_are_refused():
    asked = prompts(prompt_set(2), size="large")
    x, t = jnp.zeros((2, SIDE, SIDE, 3)), jnp.ones((2,))
    with pytest.raises(ValueError, match=r"the shape \(16, 64\), and the model's own of none has"):
        jax.eval_shape(load.denoiser(size="small"), x, t, asked.cond)


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="size is 'huge': the package has large and small"):
        load.denoiser(size="huge")


# --------------------------------------------------------------------------------------- verifiers


@pytest.fixture(scope="module")
def real():
    """Scenes nobody has learnt from, with captions."""
    rng = np.random.default_rng(99)
    requests = [sample_request(rng, TASKS[i % len(TASKS)]) for i in range(NUM)]
    images = _scenes(np.stack([data.arrange(request, rng) for request in requests]), seed=99)
    return images, prompts([write(request, rng) for request in requests], size="small").context


def _called(verifier, images, context):
    return np.asarray(jax.jit(verifier.__call__)(images, context))


@pytest.mark.parametrize("name", LEARNT)
def test_a_score_is_its_pictures_own(real, name):
    """Not that of its place or company. Kills: a mean over the batch."""
    images, context = real
    verifier, few = LEARNT[name](), np.array([7, 3, 40])
    scores = _called(verifier, images, context)
    assert np.isfinite(scores).all()
    some = _called(verifier, images[few], {key: value[few] for key, value in context.items()})
    np.testing.assert_allclose(some, scores[few], atol=1e-5)
    low, high = facts_of(LEARNT[name]).range
    assert np.all((scores >= low) & (scores <= high))


@pytest.mark.parametrize("name", ["alignment", "attributes"])
def test_what_was_asked_for_scores_higher(real, name):
    images, context = real
    verifier = LEARNT[name]()
    right = _called(verifier, images, context)
    # Of a scene of the same task.
    wrong = _called(verifier, images, {key: np.roll(value, 4, 0) for key, value in context.items()})
    assert np.mean(right > wrong) > 0.95


def test_taste_is_the_rule_on_scenes(real):
    images, context = real
    found = _called(load.taste(), images, context)
    assert np.corrcoef(found, data.pleasantness(images))[0, 1] > 0.9


@pytest.mark.parametrize("make", [*LEARNT.values(), functools.partial(check.exact, form="graded")])
def test_gradients_lead_upwards(real, make):
    images, context = jax.tree.map(lambda leaf: leaf[:4], real)
    images = 0.52 * images + 0.48 * images[::-1]  # things half there: nothing is certain
    verifier = make()
    slope = jax.jit(jax.grad(lambda images: jnp.sum(verifier(images, context))))(images)
    assert np.isfinite(slope).all()
    length = jnp.sqrt(jnp.sum(slope**2, axis=(1, 2, 3), keepdims=True))
    moved = _called(verifier, images + 1e-2 * slope / jnp.maximum(length, 1e-9), context)
    steep = np.asarray(length.ravel() > 1e-4)
    assert steep.any()
    assert np.all(moved[steep] > _called(verifier, images, context)[steep])


# --------------------------------------------------------------------------------- the whole of it


def test_the_model_draws_what_it_is_asked_for():
    """Not always, or there would be nothing to search for; 64 captions, so some 0.1 either way."""
    rates = exact_rates("large", load.weights("large"), num=16)
    assert rates["single"] > 0.8
    assert 0.45 < rates["all"] < 0.95


def test_the_command_searches_scenes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ["--searcher", "best_of_n", "--searcher.candidates", "3", "--schedule.num_steps", "4"]
    more = ["--prompts", "two red rings", "a blue box", "--output", "run", "--quiet"]
    assert cli.main(["search", "--model", "scenes", "--model.size", "small", *few, *more]) == 0
    records = [json.loads(line) for line in Path("run/records.jsonl").read_text().splitlines()]
    assert [record["prompt"] for record in records] == ["two red rings", "a blue box"]
    assert set(records[0]["scores"]) == {"alignment", "exact", "attributes", "taste"}
    assert cli.main(["replay", "run"]) == 0
    capsys.readouterr()
    bad = ["--model", "scenes", "--prompts", "a red dragon", "--output", "other"]
    assert cli.main(["search", *bad]) == 2
    assert "the word 'dragon' is not known" in capsys.readouterr().err
    assert not Path("other").exists()
