"""Prompts searched group by group, for objectives that learn from what was found before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh

from jaxsearch.core.checks import check_count
from jaxsearch.core.search import search
from jaxsearch.core.types import Array, Problem, Prompts, Searcher, SearchResult


def search_in_groups(
    key: Array,
    searcher: Searcher,
    problem: Problem,
    prompts: Prompts,
    *,
    group: int,
    after: Callable[[Problem, SearchResult], Problem],
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Iterator[SearchResult]:
    """Searches prompts in their order, so many at once, and changes the problem in between.

    A verifier that judges a population has to know what was found for the prompts before. It keeps
    that among its weights, so that no program is made anew.

    Args:
        group: prompts of a group, a divisor of their number. Those of one group do not see each
            other.
        after: `(problem, what a group has found) -> problem` of the next group.

    The other arguments are those of `search`, and each group's result [group] is that of `search`
    under the problem at that time.

    Raises:
        ValueError: if the groups would not be equally large.
    """
    num = prompts.ids.shape[0]
    check_count("group", group)
    if num % group:
        raise ValueError(f"group is {group}, but there are {num} prompts: take a divisor of that")
    for begin in range(0, num, group):
        part = jax.tree.map(lambda leaf, at=begin: leaf[at : at + group], prompts)
        found = search(key, searcher, problem, part, microbatch=microbatch, mesh=mesh)
        yield found
        if begin + group < num:
            problem = after(problem, found)
