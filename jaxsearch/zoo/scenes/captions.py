"""What is asked of a scene, how it is said, and how what was said is understood.

A caption is a free-form sentence of a small grammar with synonyms. `read` undoes `write` for each
way of saying a thing, so that what a prompt asks for is known exactly.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsearch.core.checks import check_count
from jaxsearch.zoo.scenes.world import COLOURS, NUM_KINDS, SHAPES, kind_of

TASKS = ("single", "counting", "pair", "relation")
RELATIONS = ("left", "right", "above", "below")
NUMBERS = ("two", "three", "four")
LENGTH = 16
"""The most words that a caption may have."""
_MOST_SAID = 80  # characters of a text that a message repeats

_COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
}
_SHAPE_WORDS = {
    "circle": (("circle", "circles"), ("disc", "discs"), ("dot", "dots")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"), ("wedge", "wedges")),
    "star": (("star", "stars"),),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
}
_NUMBER_WORDS = {"two": ("two", "2"), "three": ("three", "3"), "four": ("four", "4")}
_RELATION_WORDS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
_OPENINGS = ("", "a picture of", "there is", "i see", "draw")
_OPENINGS_OF_MANY = ("", "a picture of", "there are", "i see", "draw", "a group of")
_JOINTS = ("and", "with", "next to", "beside")

_COLOUR_OF = {word: i for i, c in enumerate(COLOURS) for word in _COLOUR_WORDS[c]}
_SHAPE_OF = {word: i for i, s in enumerate(SHAPES) for both in _SHAPE_WORDS[s] for word in both}
_SINGULAR = {one for words in _SHAPE_WORDS.values() for one, _ in words}
_NUMBER_OF = {word: i + 2 for i, n in enumerate(NUMBERS) for word in _NUMBER_WORDS[n]}
_RELATION_OF = {words: i for i, r in enumerate(RELATIONS) for words in _RELATION_WORDS[r]}


class Request(NamedTuple):
    """What a caption asks for: so many things of one kind, or one of each of two kinds."""

    first: int
    """The kind of the thing that is named first."""
    number: int = 1
    """How many of it."""
    second: int | None = None
    """The kind of the other thing; it differs from the first."""
    relation: int | None = None
    """Where the first is beside the second: an index into `RELATIONS`."""

    @property
    def task(self) -> str:
        """Of `TASKS`."""
        if self.second is None:
            return "single" if self.number == 1 else "counting"
        return "pair" if self.relation is None else "relation"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def write(request: Request, rng: np.random.Generator | None = None) -> str:
    """A caption that asks for it: in one of many ways, or the plainest without `rng`."""

    def choose(options: Sequence[Any]) -> Any:
        return options[0 if rng is None else int(rng.integers(len(options)))]

    def thing(kind: int, count: int = 1) -> str:
        shape, colour = divmod(kind, len(COLOURS))
        colour_word = choose(_COLOUR_WORDS[COLOURS[colour]])
        one, many = choose(_SHAPE_WORDS[SHAPES[shape]])
        if count > 1:
            return f"{choose(_NUMBER_WORDS[NUMBERS[count - 2]])} {colour_word} {many}"
        return f"{choose((_article(colour_word), 'one'))} {colour_word} {one}"

    openings = _OPENINGS if request.number == 1 else _OPENINGS_OF_MANY
    words = [choose(openings), thing(request.first, request.number)]
    if request.second is not None:
        if request.relation is None:
            joint = choose(_JOINTS)
        else:
            joint = choose(_RELATION_WORDS[RELATIONS[request.relation]])
        words += [joint, thing(request.second)]
    return " ".join(word for word in words if word)


@functools.cache
def _grammar() -> re.Pattern[str]:
    def one_of(words: Iterable[str]) -> str:
        longest_first = sorted(words, key=lambda word: -len(word))
        return "|".join(map(re.escape, longest_first))

    def thing(name: str) -> str:
        return (
            rf"(?:(?P<{name}_number>{one_of([*_NUMBER_OF, 'one', 'an', 'a', 'the'])}) )?"
            rf"(?P<{name}_colour>{one_of(_COLOUR_OF)}) (?P<{name}_shape>{one_of(_SHAPE_OF)})"
        )

    openings = one_of([o for o in (*_OPENINGS, *_OPENINGS_OF_MANY) if o])
    joints = rf"(?:(?P<relation>{one_of(_RELATION_OF)})|{one_of(_JOINTS)})"
    return re.compile(rf"(?:(?:{openings}) )?{thing('first')}(?: {joints} {thing('second')})?")


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation; letters are those of any script.

    So a word that this world has no idea of stays one, and is not passed over.
    """
    return re.findall(r"[^\W\d_]+|\d+", text.lower())


def read(text: str) -> Request:
    """What a caption asks for.

    Raises:
        ValueError: if it is no caption of this world. The message says why.
    """
    words, nothing = words_of(text), f"{_quoted(text)} asks for no scene"
    unknown = [word for word in words if word not in vocabulary()]
    if unknown:
        near = difflib.get_close_matches(unknown[0], vocabulary(), n=2)
        meant = f" (near: {', '.join(near)})" if near else ""
        raise ValueError(
            f"{nothing}: the word {_quoted(unknown[0])} is not known{meant}. {_example()}"
        )
    found = _grammar().fullmatch(" ".join(words))
    if found is None or len(words) > LENGTH:
        raise ValueError(f"{nothing}. {_example()}")

    def thing(name: str) -> tuple[int, int]:
        shape, number = found[f"{name}_shape"], found[f"{name}_number"]
        count = _NUMBER_OF.get(number, 1)
        if (count == 1) != (shape in _SINGULAR):
            raise ValueError(f"{nothing}: {number or 'no number'} {shape}?")
        return kind_of(_SHAPE_OF[shape], _COLOUR_OF[found[f"{name}_colour"]]), count

    first, count = thing("first")
    if found["second_shape"] is None:
        return Request(first, count)
    second, other = thing("second")
    if count > 1 or other > 1 or first == second:
        raise ValueError(f"{nothing}: beside another thing there is one of each kind")
    relation = found["relation"]
    return Request(first, 1, second, None if relation is None else _RELATION_OF[relation])


def _quoted(text: str) -> str:
    """A text as messages say it; of a long one its beginning."""
    return repr(text if len(text) <= _MOST_SAID else text[:_MOST_SAID] + "...")


def _example() -> str:
    return (
        f"Ask for one to four things of a colour ({', '.join(COLOURS)}) and a shape "
        f"({', '.join(SHAPES)}), or for one beside another, such as "
        f"{write(Request(0, 1, 20, 0))!r}"
    )


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Every word of the grammar, sorted."""
    said = [*_COLOUR_OF, *_SHAPE_OF, *_NUMBER_OF, *_RELATION_OF, *_OPENINGS, *_OPENINGS_OF_MANY,
            *_JOINTS, "one", "a", "an", "the"]  # fmt: skip
    return tuple(sorted({word for words in said for word in words.split()}))


_MOST_IN_VAIN = 30_000
"""How often nothing new is drawn before a task is held to have no more captions: a second. The
rarest caption of a single thing is one in 2700."""

PADDING = 0
"""The token of a place behind a caption's last word; a caption of nothing else asks for nothing."""


def tokenise(texts: Sequence[str]) -> np.ndarray:
    """Tokens [n, 16] int32 of captions of known words: 1 is the vocabulary's first word."""
    index = {word: i + 1 for i, word in enumerate(vocabulary())}
    tokens = np.full((len(texts), LENGTH), PADDING, np.int32)
    for row, text in zip(tokens, texts, strict=True):
        numbers = [index[word] for word in words_of(text)]
        row[: len(numbers)] = numbers
    return tokens


def sample_request(rng: np.random.Generator, task: str) -> Request:
    """A request of a task, all of them equally likely."""
    first, second = (int(kind) for kind in rng.choice(NUM_KINDS, 2, replace=False))
    if task == "single":
        return Request(first)
    if task == "counting":
        return Request(first, int(rng.integers(2, 2 + len(NUMBERS))))
    if task == "pair":
        return Request(first, 1, second)
    return Request(first, 1, second, int(rng.integers(len(RELATIONS))))


def prompt_set(num: int, *, tasks: Sequence[str] = TASKS, seed: int = 0) -> list[str]:
    """Captions, the tasks in turn, none twice: the same ones for the same arguments.

    Raises:
        ValueError: if a task is unknown or none is given, or they have not so many captions.
    """
    check_count("num", num)
    if not tasks:
        raise ValueError(f"no task is given: take {', '.join(TASKS)}")
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}: take {', '.join(TASKS)}")
    rng, found, in_vain = np.random.default_rng(seed), dict[str, None](), 0
    while len(found) < num:
        task, before = tasks[len(found) % len(tasks)], len(found)
        found[write(sample_request(rng, task), rng)] = None
        in_vain = 0 if len(found) > before else in_vain + 1
        if in_vain == _MOST_IN_VAIN:
            raise ValueError(
                f"num is {num}: after {before} captions, {in_vain} more of the task {task!r} were "
                "all there already: take fewer, or other tasks too"
            )
    return list(found)
