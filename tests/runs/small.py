"""A search small enough for every test of run folders; one object each, so it is compiled once."""

from __future__ import annotations

import jax

from jaxsearch.core.process import edm, karras
from jaxsearch.core.search import start
from jaxsearch.core.types import SearchState
from jaxsearch.searchers import zero_order
from jaxsearch.solvers import heun
from tests import toys

PROMPTS = toys.prompts(2)
PROBLEM = toys.problem(heun(karras(edm(), num_steps=3)))
SEARCHER = zero_order(neighbours=2, iterations=9)
ARGUMENTS = (SEARCHER, PROBLEM, PROMPTS)


def shapes(key: jax.Array) -> SearchState:
    """The shapes of the search's state."""
    return jax.eval_shape(lambda k: start(k, *ARGUMENTS), key)


KINDS = [
    ["best_of_n", "--searcher.candidates", "2"],
    ["epsilon_greedy", "--searcher.candidates", "2", "--searcher.iterations", "2"],
    [
        "paths", "--searcher.candidates", "2", "--searcher.paths", "1", "--value", "lookahead",
        "--searcher.level", "0.3", "--searcher.forward", "0.4", "--searcher.backward", "0.75",
    ],
]  # fmt: skip
"""Arguments of the command for a searcher of each kind: by trajectory, by step, by path."""
