"""Monte Carlo tree search over injected noise: a tree of choices, judged by finished samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.noise import (
    first_candidates,
    fresh,
    fresh_branches,
    noise_key,
    repeat,
    require_sight,
    take,
)
from jaxsearch.core.random import fold_in
from jaxsearch.core.reuse import reused
from jaxsearch.core.segments import Window, check_segments, segments
from jaxsearch.core.types import (
    Array,
    Evaluation,
    Noise,
    NoiseSpace,
    Particle,
    Proposal,
    PyTree,
    Searcher,
    Stage,
)


class Tree(NamedTuple):
    """The nodes of one prompt's tree in the order of their making; node 0 is where it begins.

    A node is a partial sample that has taken `depth` noise choices, one per edge of the tree. The
    children of a node are neighbours, in the order of their choices: node `i` above 0 has taken
    noise `(i - 1) mod N` last.
    """

    x: Array  # [C, *E] latent
    memory: PyTree  # [C, ...] of the solver
    path: Array  # [C, D] int32, the nodes after node 0 on the way, itself last; then C
    depth: Array  # [C] int32
    first_child: Array  # [C] int32; 0 while there are none, since node 0 is nobody's child
    score: Array  # [C] the node's own, when it was made
    visits: Array  # [C] float32
    total: Array  # [C] float32, rewards of all visits


class State(NamedTuple):
    """One prompt's search."""

    keys: Array  # [N] of the candidates whose noises are the choices
    first: Noise  # [M] the initial noise
    tree: Tree
    num_nodes: Array  # [] int32
    root: Array  # [] int32, the node that is committed to
    child: Array  # [W] int32, the nodes that the next rollouts start from
    lowest: Array  # [] the lowest finite reward so far: what a failed verifier counts as


@reused
def mcts(
    *,
    branches: int = 4,
    simulations: int = 8,
    exploration: float = 1.414,
    rollouts: Literal["sample", "value"] = "sample",
    commit: Literal["mean", "visits"] = "mean",
    leaves: int = 1,
    every: int = 1,
    window: Window = None,
) -> Searcher:
    """Grows a tree of noise choices by UCB1 and commits to its best branch step by step.

    Ramesh & Mardani 2025, MCTS. At every step there are N fixed noises to choose from. A simulation
    goes down from the root to a node without children, each time to the child with the largest

        total/visits + exploration * sqrt(log(parent's visits) / visits),

    unvisited ones first (Auer et al. 2002, UCB1); expands all N children; plays one of them, chosen
    at random, to a finished sample; and adds that sample's score to every node on the path before
    the next simulation begins. After S simulations the best child of the root becomes the root, and
    its subtree is kept. Steps without injected noise belong to the edge before them.

    A tree never has more than `1 + N*S*D` nodes, `D` the steps that are searched; that many latents
    are held for each prompt (`plan` states the memory). What a simulation costs hangs on how deep
    its leaf lies, so the price that `plan` gives holds for equal scores. The exploration bonus
    supposes scores between 0 and 1.

    Args:
        branches: N, noises to choose from at each step, at least 1.
        simulations: S, simulations before each commitment, at least 1.
        exploration: C, the weight of the bonus, 0 or more.
        rollouts: how a leaf is judged. `"sample"`: one random child is played to a finished sample
            with fresh noise. `"value"`: every child is scored by the problem's value as it stands,
            and all N scores are added; with the value `rollout` these are rollouts without noise.
        commit: to which child, the one of the best mean or the most visited.
        leaves: W, leaves found before their samples are scored, a divisor of S. Visits that are
            still under way count in the bonus (Liu et al. 2020, *Watch the unobserved*, equation
            4), so that simulations of one round part ways. Fewer, larger rounds are faster.
        every: solver steps between two choices, at least 1.
        window: lowest and highest noise level (`sigma/alpha`) at which to choose; null: all.

    Raises:
        ValueError: if a setting is out of its range; on a solver that injects no noise, or none
            inside the window.
    """
    check_count("branches", branches)
    check_count("simulations", simulations)
    check_count("leaves", leaves)
    check_range("exploration", exploration, 0.0)
    check_segments(every, window)
    for name, value, known in (
        ("rollouts", rollouts, ("sample", "value")),
        ("commit", commit, ("mean", "visits")),
    ):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}: take {' or '.join(map(repr, known))}")
    if simulations % leaves:
        raise ValueError(
            f"leaves is {leaves}, which does not divide the {simulations} simulations: take a "
            "divisor"
        )

    def edges(space: NoiseSpace) -> tuple[list[int], list[int]]:
        """[D] the first step of each edge, and the step after its last."""
        if rollouts == "value":
            require_sight(space, "mcts", every)
        divided = segments(space, every=every, window=window, what="mcts")
        begins = [segment.begin for segment in divided if segment.searched]
        return begins, [*begins[1:], space.num_steps]

    def capacity(num_edges: int) -> int:
        """The most nodes that a tree can have."""
        full = sum(branches**depth for depth in range(min(num_edges, 64)))
        return 1 + branches * min(num_edges * simulations, full)

    def init_fn(space: NoiseSpace, key: Array) -> State:
        keys, particles = first_candidates(space, key, branches)
        num_edges = len(edges(space)[0])
        num = capacity(num_edges)
        nowhere, nothing = jnp.zeros((num,), jnp.int32), jnp.zeros((num,), jnp.float32)
        root = take(particles, 0)
        tree = Tree(
            x=repeat(root.x, num),
            memory=repeat(root.memory, num),
            path=jnp.full((num, num_edges), num, jnp.int32),
            depth=nowhere,
            first_child=nowhere,
            score=nothing,
            visits=nothing,
            total=nothing,
        )
        none = jnp.zeros((leaves,), jnp.int32)
        first = take(root.noise, 0)
        return State(keys, first, tree, jnp.int32(1), jnp.int32(0), none, jnp.float32(jnp.inf))

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        begins, ends = edges(space)
        num_edges, begin = len(begins), begins[0]
        first_step = jnp.asarray([*begins, space.num_steps])  # of a node, by its depth
        length = jnp.asarray([*(e - b for b, e in zip(begins, ends, strict=True)), 0])
        longest = max(e - b for b, e in zip(begins, ends, strict=True))
        # Which edge each solver step belongs to; those before the first one belong to none.
        edge_of = jnp.searchsorted(first_step[:-1], jnp.arange(space.num_steps), side="right") - 1
        used = jnp.asarray(space.active, jnp.float32)
        rounds = num_edges * (simulations // leaves)

        def particles(state: State, nodes: Array) -> Particle:
            """The partial samples [n] that nodes [n] stand for."""
            tree = take(state.tree._replace(memory=()), nodes)
            steps = first_step[tree.depth]
            rows = jnp.arange(1, space.num_steps + 1)

            def lineage(path: Array, step: Array) -> Noise:
                # Where nothing is chosen yet the number is C, which says noise 0; none is drawn.
                choice = (path - 1) % branches
                keys = state.keys[jnp.where(edge_of < 0, 0, choice[edge_of])]
                noise = fresh(jax.vmap(lambda k, row: noise_key(space, k, row))(keys, rows), 1)
                taken = used * (rows <= step).astype(jnp.float32)
                return noise._replace(coefs=noise.coefs * taken[:, None])

            later = jax.vmap(lineage)(tree.path, steps)
            first = repeat(state.first, nodes.shape[0])
            noise = jax.tree.map(
                lambda one, rest: jnp.concatenate([one[:, None], rest], axis=1), first, later
            )
            memory = take(state.tree.memory, nodes)
            return Particle(tree.x, jnp.zeros_like(tree.x), steps, noise, memory)

        def ask_first(key: Array, round: Array, state: State) -> Proposal:
            del key, round
            noise = fresh_branches(space, state.keys[:1], 0, begin)
            return Proposal(particles(state, jnp.zeros((1,), jnp.int32))._replace(
                step=jnp.zeros((1,), jnp.int32)
            ), noise)  # fmt: skip

        def tell_first(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round, proposal
            child = take(evaluation.child, 0)
            tree = state.tree._replace(
                x=state.tree.x.at[0].set(child.x),
                memory=jax.tree.map(
                    lambda old, new: old.at[0].set(new), state.tree.memory, child.memory
                ),
            )
            return state._replace(tree=tree)

        def family(first: Array) -> Array:
            """[..., N] the numbers of siblings, of which the first are [...]."""
            offsets = jnp.arange(branches)
            return first[..., None] + offsets.reshape((1,) * first.ndim + (branches,))

        def on_path(tree: Tree, nodes: Array) -> Array:
            """[..., D + 1] the nodes from node 0 to nodes [...]; then `C`, that of none."""
            path = tree.path[nodes]
            path = jnp.concatenate([jnp.zeros_like(path[..., :1]), path], axis=-1)
            none = tree.depth.shape[0]
            return jnp.where(nodes[..., None] < none, path, none)

        def find_leaves(state: State) -> Array:
            """[W] the nodes without children that this round's simulations lead to."""
            tree = state.tree

            def mean_of(node: Array, otherwise: Array) -> Array:
                visits = tree.visits[node]
                return jnp.where(visits > 0, tree.total[node] / jnp.maximum(visits, 1), otherwise)

            def one(under_way: Array, _: None) -> tuple[Array, Array]:
                def down(node: Array) -> Array:
                    children = family(tree.first_child[node])
                    count = tree.visits[children] + under_way[children]
                    above = tree.visits[node] + under_way[node]
                    bonus = jnp.sqrt(jnp.log(jnp.maximum(above, 1)) / jnp.maximum(count, 1))
                    bound = mean_of(children, mean_of(node, jnp.float32(0)))
                    bound = jnp.where(count > 0, bound + exploration * bonus, jnp.inf)
                    return children[jnp.argmax(bound)]

                leaf = jax.lax.while_loop(lambda node: tree.first_child[node] > 0, down, state.root)
                return under_way.at[on_path(tree, leaf)].add(1, mode="drop"), leaf

            _, found = jax.lax.scan(one, jnp.zeros_like(tree.visits), None, length=leaves)
            return found

        def grows(state: State, found: Array) -> Array:
            """[W] whether a leaf gets children: not where it is finished, and only once a round."""
            again = (found[:, None] == found[None]) & jnp.tri(leaves, k=-1, dtype=bool)
            return (state.tree.depth[found] < num_edges) & ~jnp.any(again, axis=1)

        def ask_children(key: Array, round: Array, state: State) -> Proposal:
            del key, round
            found = find_leaves(state)
            depth = state.tree.depth[found]

            def choices(step: Array) -> Noise:
                return fresh_branches(space, state.keys, step, longest)

            noise = jax.vmap(choices)(first_step[depth])
            steps = jnp.where(grows(state, found), length[depth], 0)
            return Proposal(
                take(particles(state, found), jnp.repeat(jnp.arange(leaves), branches)),
                jax.tree.map(lambda leaf: leaf.reshape((-1, *leaf.shape[2:])), noise),
                steps=jnp.repeat(steps, branches),
            )

        def tell_children(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del proposal
            found, tree = find_leaves(state), state.tree
            new = grows(state, found)
            count = new.astype(jnp.int32)
            place = state.num_nodes + branches * (jnp.cumsum(count) - count)
            none = tree.depth.shape[0]  # what is written there is dropped
            index = jnp.where(new[:, None], family(place), none).ravel()
            # Both read as `ask` does, so that every reading goes before the writing: otherwise XLA
            # copies the tables.
            path = jnp.repeat(tree.path[found], branches, axis=0)
            depth = jnp.repeat(tree.depth[found], branches)
            child = evaluation.child
            entries = tree._replace(
                x=child.x,
                memory=child.memory,
                path=path.at[jnp.arange(len(index)), depth].set(index),
                depth=depth + 1,
                first_child=jnp.zeros_like(depth),
                score=evaluation.score,
                visits=jnp.zeros_like(evaluation.score),
                total=jnp.zeros_like(evaluation.score),
            )
            tree = jax.tree.map(
                lambda old, rows: old.at[index].set(rows, mode="drop"), tree, entries
            )
            first_child = tree.first_child.at[jnp.where(new, found, none)].set(place, mode="drop")
            tree = tree._replace(first_child=first_child)
            drawn = jax.random.randint(key, (leaves,), 0, branches)
            finished = tree.depth[found] == num_edges
            state = state._replace(
                tree=tree,
                num_nodes=state.num_nodes + branches * jnp.sum(count),
                child=jnp.where(finished, found, tree.first_child[found] + drawn),
            )
            if rollouts == "sample":
                return state
            children = jnp.where(finished[:, None], found[:, None], family(tree.first_child[found]))
            # What was found twice in a round has nothing new to say the second time.
            children = jnp.where((new | finished)[:, None], children, none)
            return committed(round, backed_up(state, children.ravel()))

        def ask_rollouts(key: Array, round: Array, state: State) -> Proposal:
            del round
            parent = particles(state, state.child)
            rest = max(space.num_steps - ends[0], 1)
            keys = fold_in(key, jnp.arange(leaves))

            def play(candidate: Array, step: Array) -> Noise:
                return fresh_branches(space, candidate[None], step, rest)

            noise = jax.vmap(play)(keys, parent.step)
            noise = jax.tree.map(lambda leaf: leaf[:, 0], noise)
            return Proposal(parent, noise, steps=space.num_steps - parent.step)

        def tell_rollouts(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key
            assert proposal.steps is not None
            played = proposal.steps > 0  # a child that is finished was scored when it was made
            reward = jnp.where(played, evaluation.score, state.tree.score[state.child])
            return committed(round, backed_up(state, state.child, reward))

        def backed_up(state: State, nodes: Array, reward: Array | None = None) -> State:
            """After one visit of each node [n], which brought its reward or else its own score."""
            tree = state.tree
            reward = tree.score[nodes] if reward is None else reward
            lowest = jnp.minimum(
                state.lowest, jnp.min(jnp.where(jnp.isfinite(reward), reward, jnp.inf))
            )
            failed = jnp.where(jnp.isfinite(lowest), lowest, 0)
            reward = jnp.where(jnp.isfinite(reward), reward, failed)
            path = on_path(tree, nodes)
            tree = tree._replace(
                visits=tree.visits.at[path].add(1, mode="drop"),
                total=tree.total.at[path].add(reward[:, None], mode="drop"),
            )
            return state._replace(tree=tree, lowest=lowest)

        def committed(round: Array, state: State) -> State:
            """After a round, of which every `S/W` is the last before a commitment."""
            tree = state.tree
            children = family(tree.first_child[state.root])
            visits = tree.visits[children]
            mean = jnp.where(visits > 0, tree.total[children] / jnp.maximum(visits, 1), -jnp.inf)
            best = children[jnp.argmax(mean if commit == "mean" else visits)]
            per_commitment = simulations // leaves
            commits = round % per_commitment == per_commitment - 1
            return state._replace(root=jnp.where(commits, best, state.root))

        def most_calls(calls: Sequence[int]) -> int:
            """Every simulation finds the dearest leaf that is still there to be found.

            A node is a leaf until it is found, once more for each other leaf of that round, and
            can be found only while it is below the root that is committed to. So simulations are
            given to nodes as to jobs with deadlines, the last commitment's first.
            """
            play = [sum(calls[e:]) if rollouts == "sample" else 0 for e in ends]
            grow = [branches * sum(calls[b:e]) for b, e in zip(begins, ends, strict=True)]
            there: Counter[int] = Counter()  # by price
            most = 0
            for root in reversed(range(num_edges)):
                for depth in range(root, num_edges):
                    below = branches ** (depth - root)
                    # Those below the next root were added with it.
                    new = below - below // branches if depth > root else 1
                    there[grow[depth] + play[depth]] += new
                    there[play[depth]] += new * (leaves - 1)
                left = simulations
                for price in sorted(there, reverse=True):
                    found = min(left, there[price])
                    there[price] -= found
                    left -= found
                    most += found * price
            return most

        play = None
        if rollouts == "sample":
            # Its price is in that of the expansion before it.
            play = Stage(rounds, ask_rollouts, tell_rollouts, most_calls=lambda calls: 0)
        grow = Stage(rounds, ask_children, tell_children, then=play, most_calls=most_calls)
        if begin == 0:
            return (grow,)
        return Stage(1, ask_first, tell_first, finishes=False), grow

    return Searcher(
        "mcts",
        init_fn,
        stages_fn,
        absolute_scores="adds up the scores of all rounds below a node",
        adaptive=True,
    )
