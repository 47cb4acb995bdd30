"""Budgets: the largest search that a number of network passes pays for."""

from __future__ import annotations

from collections.abc import Callable

from jaxsearch.core.checks import MOST
from jaxsearch.core.plan import most_network_passes
from jaxsearch.core.types import Problem, Searcher


def largest(make: Callable[[int], Searcher], problem: Problem, *, network_passes: int) -> int:
    """The largest size at which a searcher never spends more than a budget, per prompt.

    Nothing runs. The price is taken to grow with the size; where it grows evenly, as it does for
    most searchers, three prices are looked at.

    Args:
        make: size, from 1, -> searcher: `lambda n: best_of_n(candidates=n)`.
        problem: what is searched.
        network_passes: the budget.

    Raises:
        ValueError: if size 1 costs more, or the size does not change the price.
    """

    def price(size: int) -> int:
        return most_network_passes(make(size), problem)

    first = price(1)
    if first > network_passes:
        raise ValueError(
            f"a budget of {network_passes} network passes is too small for {make(1).name}: with "
            f"these settings it needs {first} at least"
        )
    second = price(2)
    if second <= first:
        raise ValueError(
            f"the size that a budget would choose does not change the price of {make(1).name}, "
            f"which is {first} network passes"
        )
    if second > network_passes:
        return 1
    fits, too_dear, step = 2, MOST + 1, second - first
    size = min(1 + (network_passes - first) // step, MOST)
    while fits + 1 < too_dear:
        spent = price(size)
        if spent > network_passes:
            too_dear = size
        else:
            fits = size
            if spent == first + (size - 1) * step and spent + step > network_passes:
                break  # on a line: one more is too dear
        # Where the line bends: what the budget buys at this size's price for each.
        size = min(max(size * network_passes // spent, fits + 1), too_dear - 1)
    return fits
