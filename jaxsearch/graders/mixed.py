"""Graders and verifiers of the device together, as one score of `search_on_host`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.aggregate import compared, mean_rank
from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.host import Graded
from jaxsearch.core.types import ESTIMATE, Aggregate, Array, Prompts, Verifier
from jaxsearch.graders.panel import Panel

Score = Callable[[np.ndarray, np.ndarray], Graded]
"""`(images [n,h,w,c] float32 in [0, 1], prompt ids [n]) -> scores [n, V]`."""


def mixed(
    panel: Panel,
    prompts: Prompts,
    texts: Sequence[str],
    *,
    verifiers: Sequence[Verifier] = (),
    fraction: float = 1.0,
    leave_by: Aggregate | None = None,
    microbatch: int | None = None,
) -> Score:
    """What `search_on_host` asks: verifiers about all candidates, graders about the best of them.

    A round's candidates of one prompt are judged by the verifiers, on the device. Of those that
    none of them has failed, the best `ceil(fraction * K)` of `K` are shown to the graders, ties in
    the order of the candidates. The others have failed the graders and cannot win, and neither can
    one whose grader fails. The problem's aggregate, a sum, weights, ranks or the worst, gets all
    guides: the verifiers, then the graders, each in its order.

    Args:
        panel: the graders.
        prompts: those of the search.
        texts: [P] what graders are told of each.
        verifiers: of the device; their `needs` are taken from the prompts' context.
        fraction: of a round's candidates of a prompt, above 0, at most 1.
        leave_by: how several verifiers' scores become one for that choice; None: the mean of their
            ranks.
        microbatch: images that verifiers judge at once; None: all.

    Raises:
        ValueError: if there are not as many texts as prompts, the fraction is out of its range or
            below 1 without a verifier, a verifier needs what there is not, or two prompts have one
            id.
    """
    check_range("fraction", fraction, 0.0, 1.0, open_low=True)
    if microbatch is not None:
        check_count("microbatch", microbatch)
    if len(texts) != len(prompts.ids):
        raise ValueError(f"there are {len(texts)} texts for {len(prompts.ids)} prompts")
    if fraction < 1 and not verifiers:
        raise ValueError(
            f"fraction is {fraction}: without a verifier nobody chooses, so it must be 1"
        )
    for verifier in verifiers:
        if ESTIMATE in verifier.needs:
            raise ValueError(
                f"{verifier.name} needs a clean estimate of the sampler, which is not there on the "
                "host: take another verifier"
            )
    rows = {int(one): row for row, one in enumerate(np.asarray(prompts.ids))}
    if len(rows) < len(texts):
        raise ValueError("prompts have the same id: nobody could tell their candidates apart")
    leave_by = leave_by or mean_rank()

    def score(images: np.ndarray, ids: np.ndarray) -> Graded:
        row = np.asarray([rows[int(one)] for one in ids])
        local = _local(tuple(verifiers), images, row, prompts.context, microbatch)
        chosen = np.ones(len(images), bool)
        if verifiers:
            chosen = np.zeros(len(images), bool)
            for prompt in np.unique(row):
                own = np.flatnonzero(row == prompt)
                chosen[own[_best(leave_by, local[own], fraction)]] = True
        asked = np.broadcast_to(chosen[:, None], (len(images), len(panel.graders)))
        remote = panel(images, [texts[one] for one in row], asked, ids)
        return Graded(
            np.concatenate([local, remote], axis=1),
            np.concatenate([np.ones(local.shape, bool), asked], axis=1),
        )

    return score


def _best(aggregate: Aggregate, scores: np.ndarray, fraction: float) -> np.ndarray:
    """The places of the best candidates of one prompt, of their scores [K, V]."""
    single = np.asarray(compared(aggregate, jnp.asarray(scores)))
    order = np.argsort(-single, kind="stable")[: math.ceil(fraction * len(single))]
    return order[np.isfinite(single[order])]


@jax.jit
def _scores(verifiers: tuple[Verifier, ...], images: Array, context: dict[str, Array]) -> Array:
    return jnp.stack([one(images, context) for one in verifiers], axis=-1)


def _local(
    verifiers: tuple[Verifier, ...],
    images: np.ndarray,
    row: np.ndarray,
    context: dict[str, Array],
    microbatch: int | None,
) -> np.ndarray:
    """What verifiers of the device say of images [n], of prompts by their row: [n, V] float32."""
    if not verifiers:
        return np.zeros((len(images), 0), np.float32)
    size = min(microbatch or len(images), len(images))
    found = []
    for begin in range(0, len(images), size):
        # The last batch begins earlier, so that all are of one size.
        begin = min(begin, len(images) - size)
        part = slice(begin, begin + size)
        own = jax.tree.map(lambda leaf, part=part: leaf[row[part]], context)
        found.append((part, np.asarray(_scores(verifiers, jnp.asarray(images[part]), own))))
    scores = np.zeros((len(images), len(verifiers)), np.float32)
    for part, one in found:
        scores[part] = one
    return scores
