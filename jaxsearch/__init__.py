"""Inference-time search over the noise of diffusion and flow models."""

from jaxsearch.core.aggregate import AGGREGATES, mean_rank, total, weighted, worst
from jaxsearch.core.budget import largest
from jaxsearch.core.early import keep_estimate
from jaxsearch.core.evaluate import evaluate
from jaxsearch.core.groups import search_in_groups
from jaxsearch.core.host import search_on_host
from jaxsearch.core.noise import realise
from jaxsearch.core.plan import Plan, plan
from jaxsearch.core.process import (
    edm,
    flow,
    karras,
    shifted,
    trained_steps,
    trigonometric,
    variance_preserving,
)
from jaxsearch.core.replay import replay, sample
from jaxsearch.core.search import result_of, search, search_in_chunks
from jaxsearch.core.types import (
    Aggregate,
    Cost,
    Decoder,
    Denoiser,
    Evaluation,
    Legs,
    Noise,
    NoiseSpace,
    Objective,
    Particle,
    Prediction,
    Problem,
    Process,
    Prompts,
    Proposal,
    Schedule,
    Searcher,
    SearchResult,
    SearchState,
    Solver,
    Stage,
    StepResult,
    Trace,
    Value,
    Verifier,
)
from jaxsearch.core.value import VALUES, lookahead, rollout, solver_estimate
from jaxsearch.searchers import SEARCHERS
from jaxsearch.searchers.early_stop import early_stop
from jaxsearch.solvers import SOLVERS
from jaxsearch.verifiers import VERIFIERS
from jaxsearch.zoo import MODELS

__version__ = "0.1.0"

__all__ = (
    "AGGREGATES",
    "MODELS",
    "SEARCHERS",
    "SOLVERS",
    "VALUES",
    "VERIFIERS",
    "Aggregate",
    "Cost",
    "Decoder",
    "Denoiser",
    "Evaluation",
    "Legs",
    "Noise",
    "NoiseSpace",
    "Objective",
    "Particle",
    "Plan",
    "Prediction",
    "Problem",
    "Process",
    "Prompts",
    "Proposal",
    "Schedule",
    "SearchResult",
    "SearchState",
    "Searcher",
    "Solver",
    "Stage",
    "StepResult",
    "Trace",
    "Value",
    "Verifier",
    "__version__",
    "early_stop",
    "edm",
    "evaluate",
    "flow",
    "karras",
    "keep_estimate",
    "largest",
    "lookahead",
    "mean_rank",
    "plan",
    "realise",
    "replay",
    "result_of",
    "rollout",
    "sample",
    "search",
    "search_in_chunks",
    "search_in_groups",
    "search_on_host",
    "shifted",
    "solver_estimate",
    "total",
    "trained_steps",
    "trigonometric",
    "variance_preserving",
    "weighted",
    "worst",
)
