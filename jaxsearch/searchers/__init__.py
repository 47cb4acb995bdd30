"""Searchers, one algorithm a file. A new one is its file and its line here."""

from jaxsearch.searchers.beam import beam
from jaxsearch.searchers.best_of_n import best_of_n
from jaxsearch.searchers.epsilon_greedy import epsilon_greedy
from jaxsearch.searchers.gradient import gradient
from jaxsearch.searchers.mcts import mcts
from jaxsearch.searchers.smc import smc
from jaxsearch.searchers.svdd import svdd
from jaxsearch.searchers.zero_order import zero_order

SEARCHERS = {
    "beam": beam,
    "best_of_n": best_of_n,
    "epsilon_greedy": epsilon_greedy,
    "gradient": gradient,
    "mcts": mcts,
    "smc": smc,
    "svdd": svdd,
    "zero_order": zero_order,
}

__all__ = ["SEARCHERS", *SEARCHERS]
