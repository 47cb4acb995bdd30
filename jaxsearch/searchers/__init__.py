"""Searchers, one algorithm a file. A new one is its file and its line here."""

from collections.abc import Callable

from jaxsearch.core.types import Searcher
from jaxsearch.searchers.beam import beam
from jaxsearch.searchers.best_of_n import best_of_n
from jaxsearch.searchers.cross_entropy import cross_entropy
from jaxsearch.searchers.early_stop import early_stop
from jaxsearch.searchers.epsilon_greedy import epsilon_greedy
from jaxsearch.searchers.evolution import evolution
from jaxsearch.searchers.gradient import gradient
from jaxsearch.searchers.halving import halving
from jaxsearch.searchers.markov_chain import markov_chain
from jaxsearch.searchers.mcts import mcts
from jaxsearch.searchers.paths import paths
from jaxsearch.searchers.rollover import rollover
from jaxsearch.searchers.smc import smc
from jaxsearch.searchers.svdd import svdd
from jaxsearch.searchers.zero_order import zero_order

SEARCHERS: dict[str, Callable[..., Searcher]] = {
    "beam": beam,
    "best_of_n": best_of_n,
    "cross_entropy": cross_entropy,
    "epsilon_greedy": epsilon_greedy,
    "evolution": evolution,
    "gradient": gradient,
    "halving": halving,
    "markov_chain": markov_chain,
    "mcts": mcts,
    "paths": paths,
    "rollover": rollover,
    "smc": smc,
    "svdd": svdd,
    "zero_order": zero_order,
}

FREE_SIZE = {
    "beam": "width",
    "best_of_n": "candidates",
    "cross_entropy": "generations",
    "epsilon_greedy": "iterations",
    "evolution": "generations",
    "gradient": "iterations",
    "halving": "candidates",
    "markov_chain": "iterations",
    "mcts": "simulations",
    "paths": "candidates",
    "rollover": "quota",
    "smc": "particles",
    "svdd": "particles",
    "zero_order": "iterations",
}
"""By searcher: the setting that a budget chooses where nobody else does."""

__all__ = ["FREE_SIZE", "SEARCHERS", "early_stop", *SEARCHERS]
