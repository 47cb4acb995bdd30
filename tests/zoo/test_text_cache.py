"""What was made of texts is found again, by nothing but the same encoder of the same tokens."""

from __future__ import annotations

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxsearch.core.types import Array
from jaxsearch.models import loading
from jaxsearch.models.loading import abstract_module
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.models.stored import stored_safetensors
from jaxsearch.parallel import loading_onto, particle_mesh
from jaxsearch.zoo import texts
from jaxsearch.zoo.text_cache import FOLDER, GIB, folder_of_texts
from jaxsearch.zoo.texts import encoders_held, text_encoder

VOCABULARY = 90


class Made(NamedTuple):
    """A tree, as encoders make them, of which a part may be missing."""

    tokens: Array
    seen: Array
    whole: Array | None = None


class Encoder(nnx.Module):
    def __init__(self, dtype, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(VOCABULARY, 64, param_dtype=dtype, rngs=rngs)


def network(params, ids, seen):
    found = jnp.cos(params["embed"]["embedding"][ids])
    return Made(jnp.dot(found, jnp.eye(64, dtype=found.dtype)).astype(jnp.float32), seen)


def corrected(params, ids, seen):
    made = network(params, ids, seen)
    return made._replace(tokens=made.tokens * 1.0000001)


def tokenise_to(length):
    def tokenise(texts):
        ids = np.zeros((len(texts), length), np.int32)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = [ord(letter) % VOCABULARY for letter in text[:length]]
        return ids, ids > 0

    return tokenise


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "texts"))
    return tmp_path / "texts"


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "encoder.safetensors", 0)
    return tmp_path / "encoder.safetensors"


def write(path, seed):
    weights = np.random.default_rng(seed).normal(size=(VOCABULARY, 64)).astype(np.float32)
    save_file({"embed.weight": weights}, path)


class Watched:
    """A new encoder, as another process would make it, and how often its weights were read."""

    def __init__(self, path, *, network=network, dtype=jnp.float32, length=6):
        self.loads = 0

        def load():
            params = load_state_dict(
                abstract_module(lambda rngs: Encoder(dtype, rngs)),
                stored_safetensors(path),
                source=path,
            )
            self.loads += isinstance(params["embed"]["embedding"], jax.Array)
            return params

        self.encode = text_encoder(
            network, load, tokenise_to(length), vocab_size=VOCABULARY, source=path,
            files=(path,),
        )  # fmt: skip


def test_the_second_time_no_encoder_runs(cache, path):
    """Kills: an encoder that is run, or read, for texts that are kept; a part lost or moved."""
    first, second = Watched(path), Watched(path)
    found = first.encode(["ab", "c", "ab"])
    assert first.loads == 1
    again = second.encode(["c", "ab", "c"])
    assert second.loads == 0
    for name in ("tokens", "seen"):
        one, other = getattr(found, name), getattr(again, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one[np.asarray([1, 0, 1])], other)
    assert again.whole is None
    assert len(list(cache.iterdir())) == 2
    third = second.encode(["c", "new"])  # what is new is encoded, beside what is kept
    assert (second.loads, third.tokens.shape[0]) == (1, 2)
    assert first.encode(["c"]).tokens.shape == (1, 6, 64)
    assert first.loads == 1


@pytest.mark.parametrize(
    "other", ["prompt", "length", "dtype", "encoder", "place", "code", "precision"]
)
def test_anything_else_is_another_text(cache, path, other):
    """Kills: each of them left out of the key."""
    Watched(path).encode(["ab"])
    if other == "encoder":
        write(path, 1)
    place = loading_onto(particle_mesh(2, model=2) if other == "place" else None)
    precision = jax.default_matmul_precision("float32" if other == "precision" else None)
    with place, precision:
        changed = Watched(
            path,
            network=corrected if other == "code" else network,
            dtype=jnp.bfloat16 if other == "dtype" else jnp.float32,
            length=8 if other == "length" else 6,
        )
        changed.encode(["abc" if other == "prompt" else "ab"])
    assert changed.loads == 1
    assert len(list(cache.iterdir())) == 2


def test_an_encoder_is_held_while_it_is_said_to_be(cache, path):
    """Kills: one that is read for the null text and again for prompts, or stays for the search."""
    one, other = Watched(path), Watched(path)
    with encoders_held():
        one.encode([""])
        one.encode(["ab"])
        other.encode(["c"])
    assert (one.loads, other.loads) == (1, 1)
    assert (VOCABULARY, 64) not in [array.shape for array in jax.live_arrays()]
    one.encode(["d"])
    assert one.loads == 2


def test_memory_holds_the_last_texts_alone(cache, path, monkeypatch):
    """Kills: what was made of every text of a long sweep, all at once."""
    monkeypatch.setattr(texts, "_KEPT_ON_HOST", 2)
    encoder = Watched(path)
    wanted = encoder.encode(["a", "b", "c"])
    monkeypatch.setenv(FOLDER, "off")
    np.testing.assert_array_equal(encoder.encode(["c", "b"]).tokens, wanted.tokens[2:0:-1])
    assert encoder.loads == 1
    np.testing.assert_array_equal(encoder.encode(["a"]).tokens, wanted.tokens[:1])
    assert encoder.loads == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_what_is_damaged_is_made_again(cache, path, damage):
    """Kills: a file that is believed because it can be read."""
    wanted = Watched(path).encode(["ab"])
    (kept,) = cache.iterdir()
    content = bytearray(kept.read_bytes())
    if damage == "cut":
        kept.write_bytes(content[:-8])
    elif damage == "flipped":
        content[-3] ^= 16
        kept.write_bytes(content)
    elif damage == "other":
        save_file({"0": np.zeros((1, 6, 64), np.float32)}, kept)
    else:
        kept.write_bytes(b"")
    second, third = Watched(path), Watched(path)
    with pytest.warns(UserWarning, match=r"\.safetensors is damaged .* its text is encoded again"):
        found = second.encode(["ab"])
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    third.encode(["ab"])
    assert (second.loads, third.loads) == (1, 0)


def test_weights_are_on_no_device_afterwards(cache, path):
    """Kills: an encoder that stays while a search runs."""
    encoder = Watched(path)
    encoder.encode(["ab"])
    shapes = [array.shape for array in jax.live_arrays()]
    assert (VOCABULARY, 64) not in shapes


def test_the_folder_does_not_grow_for_ever(cache, path, monkeypatch):
    """Kills: no bound; what is still asked for thrown away first; files of killed writers kept."""
    Watched(path).encode(["a", "b", "c"])
    size = max(file.stat().st_size for file in cache.iterdir())
    for age, file in enumerate(sorted(cache.iterdir())):
        os.utime(file, (age, age))
    asked = sorted(cache.iterdir())[0]
    left = cache / ".old.safetensors.x1"
    left.write_bytes(b"")
    os.utime(left, (0, 0))
    for text in "abc":  # one of them is the oldest: reading makes it the youngest
        before = asked.stat().st_mtime_ns
        Watched(path).encode([text])
        if asked.stat().st_mtime_ns != before:
            break
    assert asked.stat().st_mtime_ns > 10**15
    for file in set(cache.glob("*.safetensors")) - {asked}:  # the clock of files is a coarse one
        os.utime(file, (1, 1))
    monkeypatch.setenv(GIB, str(2.5 * size / 2**30))
    Watched(path).encode(["d"])
    kept = list(cache.iterdir())
    assert len(kept) == 2
    assert asked in kept
    monkeypatch.setenv(GIB, "much")
    with pytest.raises(ValueError, match="JAXSEARCH_TEXT_CACHE_GIB is 'much': it must be a number"):
        Watched(path).encode(["e"])


def test_it_can_be_switched_off_and_moved(path, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, "off")
    for _ in range(2):
        encoder = Watched(path)
        encoder.encode(["ab"])
        assert encoder.loads == 1
    monkeypatch.delenv(FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert folder_of_texts() == tmp_path / "cache" / "jaxsearch" / "texts"
    Watched(path).encode(["ab"])
    assert len(list((tmp_path / "cache" / "jaxsearch" / "texts").iterdir())) == 1


@pytest.mark.parametrize("reason", ["no folder", "full"])
def test_a_folder_that_cannot_be_written_costs_nothing_but_time(
    path, tmp_path, monkeypatch, reason
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "texts"))
    if reason == "full":
        monkeypatch.setenv(FOLDER, str(tmp_path / "texts"))

        def full(*arguments):
            raise SafetensorError("Error while serializing: No space left on device (os error 28)")

        monkeypatch.setattr(loading, "save_file", full)
    with pytest.warns(UserWarning, match=r"cannot be kept in .*JAXSEARCH_TEXT_CACHE names another"):
        found = Watched(path).encode(["ab"])
    assert found.tokens.shape == (1, 6, 64)
