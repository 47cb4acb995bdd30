"""Recipes on disk are the recipes in memory, and damage is found and named."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.noise import realise
from jaxsearch.core.types import Legs, Noise
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.recipes import read_recipes, write_recipes

SHAPE = (3, 2)


def recipes(seed: int = 0) -> Noise:
    """[2, 4, 5] with coefficients that no short decimal hits, and gaps."""
    keys = jax.random.split(jax.random.key(seed), (2, 4, 5))
    coefs = np.random.default_rng(seed).normal(size=(2, 4, 5)).astype(np.float32)
    coefs[0, 1] = 0  # a noise without effect
    coefs[:, :, 2] = 0  # a gap between terms
    coefs[1, 3, 0] = np.float32(1e-42)  # a subnormal number
    coefs[1, 2, 0] = np.nextafter(np.float32(1), np.float32(2))
    return Noise(keys, jnp.asarray(coefs))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_recipes(tmp_path / "recipes.jsonl", recipes(), [7, 9], ["a cat", "ein Käfer"])
    return tmp_path / "recipes.jsonl"


def test_noise_is_the_same_to_the_last_bit(path: Path) -> None:
    before, after = realise(recipes(), SHAPE), realise(read_recipes(path)[0], SHAPE)
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


def test_terms_keep_their_order_and_their_exact_numbers(path: Path) -> None:
    noise, (again, legs) = recipes(), read_recipes(path)
    assert legs is None
    assert again.coefs.shape == (2, 4, 4)
    for row, again_row in zip(noise.coefs.reshape(-1, 5), again.coefs.reshape(-1, 4), strict=True):
        used = np.asarray(row)[np.asarray(row) != 0]
        np.testing.assert_array_equal(np.asarray(again_row)[: len(used)], used)
        assert not np.any(np.asarray(again_row)[len(used) :])


def test_written_twice_is_the_same_file(path: Path, tmp_path: Path) -> None:
    again, _ = read_recipes(path)
    write_recipes(tmp_path / "again.jsonl", again, [7, 9], ["a cat", "ein Käfer"])
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()


def test_people_can_read_it(path: Path) -> None:
    first = json.loads(path.read_text().splitlines()[1])
    assert (first["id"], first["prompt"]) == (7, "a cat")
    row, key, coefficient = first["noise"][0]
    assert row == 0
    np.testing.assert_array_equal(
        np.frombuffer(bytes.fromhex(key), ">u4"), jax.random.key_data(recipes().keys)[0, 0, 0]
    )
    assert np.float32(coefficient) == recipes().coefs[0, 0, 0]


def legs() -> Legs:
    """[2, 3] of the recipes above: the first went two of them, the second none."""
    keys = jax.random.split(jax.random.key(1), (2, 3, 4, 2))
    coefs = np.random.default_rng(1).normal(size=(2, 3, 4, 2)).astype(np.float32)
    coefs[0, 0] = coefs[1] = coefs[0, 2, 3] = 0
    noise = Noise(keys, jnp.asarray(coefs))
    return Legs(noise, jnp.asarray([[0, 2, 3], [0, 0, 0]]), jnp.asarray([[0, 0, 1], [0, 0, 0]]))


@pytest.fixture
def path_with_legs(tmp_path: Path) -> Path:
    path = tmp_path / "recipes.jsonl"
    write_recipes(path, recipes(), [7, 9], ["a cat", "ein Käfer"], legs=legs())
    return path


def test_legs_are_the_same_to_the_last_bit(path_with_legs: Path, tmp_path: Path) -> None:
    """Kills: a leg in another's place, or in front of instead of behind those never gone; end and
    back exchanged; legs of one prompt given to the next; the renoising's own noise left out."""
    noise, read = read_recipes(path_with_legs)
    assert read is not None
    np.testing.assert_array_equal(realise(noise, SHAPE), realise(recipes(), SHAPE))
    np.testing.assert_array_equal(realise(read.noise, SHAPE), realise(legs().noise, SHAPE))
    np.testing.assert_array_equal(read.end, legs().end)
    np.testing.assert_array_equal(read.back, legs().back)
    again = tmp_path / "again.jsonl"
    write_recipes(again, noise, [7, 9], ["a cat", "ein Käfer"], legs=read)
    assert again.read_bytes() == path_with_legs.read_bytes()


def test_people_can_read_legs(path: Path, path_with_legs: Path) -> None:
    first, second = (json.loads(line) for line in path_with_legs.read_text().splitlines()[1:])
    assert [(leg["end"], leg["back"]) for leg in first["legs"]] == [(2, 0), (3, 1)]
    assert first["legs"][0]["noise"][0][0] == 0
    assert second["legs"] == []
    write_recipes(path, recipes(), [7, 9], ["a cat", "ein Käfer"])
    assert "legs" not in path.read_text()


def test_a_changed_leg_is_found_and_its_line_named(path_with_legs: Path) -> None:
    text = path_with_legs.read_text().replace('"end": 3, "back": 1', '"end": 3, "back": 0')
    path_with_legs.write_text(text)
    with pytest.raises(UserError, match="damaged at line 2: its checksum"):
        read_recipes(path_with_legs)


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_changed_digit_is_found_and_its_line_named(path: Path, line: int) -> None:
    lines = path.read_text().splitlines()
    place = next(i for i, letter in enumerate(lines[line - 1]) if letter.isdigit())
    digit = lines[line - 1][place]
    lines[line - 1] = lines[line - 1][:place] + str(9 - int(digit)) + lines[line - 1][place + 1 :]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"damaged at line {line}"):
        read_recipes(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "it is empty"),
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: "\n".join(text.splitlines()[:-1]), "1 of its 2 recipes"),
        (lambda text: "[1, 2]\n" + text, "damaged at line 1"),
        (lambda text: "\n".join(text.splitlines()[1:]), "no recipe file"),
    ],
)
def test_other_damage(path: Path, damage, message: str) -> None:
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=message):
        read_recipes(path)


def free_parts() -> Noise:
    """The recipes above with free parts that no short decimal hits, and two without any."""
    free = np.random.default_rng(3).normal(size=(2, 4, *SHAPE)).astype(np.float32)
    free[0, 2] = free[1, 0] = 0  # nothing to write
    free[1, 3] = -0.0
    free[0, 1, 0, 0] = np.float32(1e-42)
    return recipes()._replace(free=jnp.asarray(free))


@pytest.fixture
def free_path(tmp_path: Path) -> Path:
    write_recipes(tmp_path / "free.jsonl", free_parts(), [7, 9], ["a cat", "ein Käfer"])
    return tmp_path / "free.jsonl"


def test_free_parts_are_the_same_to_the_last_bit(free_path: Path) -> None:
    """Kills: a free part not written, of the wrong row, or of the other byte order."""
    before, after = free_parts(), read_recipes(free_path)[0]
    assert after.free is not None
    bits = [np.asarray(noise.free).view(np.uint32) for noise in (before, after)]
    np.testing.assert_array_equal(*bits)
    np.testing.assert_array_equal(realise(before, SHAPE), realise(after, SHAPE))
    header, first, second = map(json.loads, free_path.read_text().splitlines())
    assert header["shape"] == list(SHAPE)
    assert [[row for row, _ in line["free"]] for line in (first, second)] == [[0, 1, 3], [1, 2, 3]]
    numbers = np.frombuffer(base64.b64decode(first["free"][0][1]), "<f4")
    np.testing.assert_array_equal(numbers.reshape(SHAPE), before.free[0, 0])


def test_only_files_with_free_parts_are_of_version_2(path: Path, free_path: Path) -> None:
    """So that a reader of version 1 refuses what it would read without them."""
    assert [version in path.read_text() for version in ("version 1", "version 2")] == [True, False]
    assert "version 2" in free_path.read_text()
    assert read_recipes(path)[0].free is None


@pytest.mark.parametrize(
    ("text", "message"),
    [("$$$$", "is no base64 of float32"), ("AAA=", "is no base64"), ("AAAAAA==", "has 1 numbers")],
)
def test_a_free_part_of_another_size(free_path: Path, text: str, message: str) -> None:
    """Under a checksum that is right."""
    lines = free_path.read_text().splitlines()
    content = json.loads(lines[2])
    content.pop("sha256")
    content["free"][1][1] = text
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    lines[2] = json.dumps({**content, "sha256": digest})
    free_path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"damaged at line 3: a free part {message}"):
        read_recipes(free_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_recipes(tmp_path / "recipes.jsonl")
