"""Tree search against a tree that is written out node by node, brute force, and mctx."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.noise import fresh, noise_key, take
from jaxsearch.core.plan import memory
from jaxsearch.core.replay import replay
from jaxsearch.core.search import result_of, search, search_in_chunks
from jaxsearch.core.space import noise_space
from jaxsearch.core.types import Evaluation
from jaxsearch.core.value import lookahead
from jaxsearch.searchers import mcts
from tests import cases, toys
from tests.searchers.test_beam import enumerated, one_child

BRANCHES = 4


def problem(solver="ddpm", **kwargs):
    return toys.problem(cases.solvers()[solver], **kwargs)


def draws(key, prompt_id: int, num: int = BRANCHES):
    init = jax.random.fold_in(jax.random.fold_in(key, prompt_id), 0)
    return [jax.random.fold_in(init, number) for number in range(num)]


# ------------------------------------------------------------------------------- a tree of objects


class Node:
    def __init__(self, particle, score: float, depth: int, parent: Node | None):
        self.particle, self.score, self.depth, self.parent = particle, score, depth, parent
        self.children: list[Node] = []
        self.visits, self.total = 0, 0.0

    @property
    def mean(self) -> float:
        return self.total / self.visits if self.visits else -math.inf

    def bound(self, exploration: float) -> float:
        if not self.visits:
            return math.inf
        assert self.parent is not None
        return self.mean + exploration * math.sqrt(math.log(self.parent.visits) / self.visits)

    def back_up(self, reward: float) -> None:
        node: Node | None = self
        while node is not None:
            node.visits += 1
            node.total += reward
            node = node.parent


def written_out(key, problem_, prompts, *, simulations: int, exploration: float, depth: int):
    """The root after each commitment of `rollouts="value"`, of one prompt."""
    space = noise_space(problem_, 1)
    keys = draws(key, int(prompts.ids[0]))
    root = Node(space.root(fresh(noise_key(space, keys[0], 0), 1)), 0.0, 0, None)
    for _ in range(depth):
        for _ in range(simulations):
            node = root
            while node.children:
                bounds = [child.bound(exploration) for child in node.children]
                node = node.children[int(np.argmax(bounds))]
            if node.depth == depth:
                for _ in range(BRANCHES):
                    node.back_up(node.score)
                continue
            # The last step takes no noise and belongs to the edge before it.
            steps = 2 if node.depth == depth - 1 else 1
            for draw in keys:
                particle, score = one_child(problem_, node.particle, draw, 0, prompts, steps)
                node.children.append(Node(particle, float(score), node.depth + 1, node))
            for child in node.children:
                child.back_up(child.score)
        root = max(root.children, key=lambda child: child.mean)
        yield root


def test_it_is_the_search_written_out():
    """Visits, rewards and commitments, commitment after commitment, for two prompts at once.

    Kills: a selection that sees no back-up of the simulation before; a bonus with the visits of
    another node; children written in another's place; a subtree that is forgotten; the worst child.
    """
    key, prompts = jax.random.key(4), toys.prompts(2)
    problem_ = problem(value=lookahead(), verifiers=(toys.near_target,))
    simulations, exploration, depth = 5, 0.05, 5
    one = mcts(
        branches=BRANCHES, simulations=simulations, exploration=exploration, rollouts="value"
    )
    states = list(search_in_chunks(key, one, problem_, prompts, rounds_per_chunk=simulations))
    assert len(states) == depth
    depths = set()
    for prompt in range(2):
        alone = jax.tree.map(lambda leaf, prompt=prompt: leaf[prompt : prompt + 1], prompts)
        expected = written_out(
            key, problem_, alone, simulations=simulations, exploration=exploration, depth=depth
        )
        for state, node in zip(states, expected, strict=True):
            tree = jax.tree.map(lambda leaf, prompt=prompt: leaf[prompt], state.searcher.tree)
            root = int(state.searcher.root[prompt])
            assert int(tree.depth[root]) == node.depth
            np.testing.assert_allclose(tree.x[root], node.particle.x, atol=2e-6)
            assert int(tree.visits[root]) == node.visits
            np.testing.assert_allclose(tree.total[root], node.total, rtol=1e-5)
            for number, child in enumerate(node.children):
                place = int(tree.first_child[root]) + number
                assert int(tree.visits[place]) == child.visits
                np.testing.assert_allclose(tree.score[place], child.score, atol=2e-6)
            if node.visits:
                depths.add((prompt, node.depth, node.visits))
    assert len({visits for *_, visits in depths}) > 3  # or nothing would have been told apart


# ------------------------------------------------------------------------------------- brute force


@functools.cache
def all_leaves():
    """The scores [4^5] of every sequence of choices, and their problem and prompts."""
    problem_, prompts, key = problem(), toys.prompts(1), jax.random.key(9)
    space, keys = noise_space(problem_, 1), draws(key, 0)
    table = [jnp.stack([noise_key(space, draw, row) for draw in keys]) for row in range(1, 6)]
    tree = enumerated(problem_, prompts, noise_key(space, keys[0], 0), table)
    scores = [score for choices, (_, score) in tree.items() if len(choices) == 5]
    return np.asarray(scores), problem_, prompts, key


def test_a_whole_tree_holds_the_best_of_all_sequences():
    """1365 nodes, 1024 leaves.

    Kills: an edge that takes another's noise, or says that it took another's; leaves never reached.
    """
    scores, problem_, prompts, key = all_leaves()
    one = mcts(branches=BRANCHES, simulations=400, exploration=1e4, rollouts="value")
    *_, last = search_in_chunks(key, one, problem_, prompts, rounds_per_chunk=400)
    assert int(last.searcher.num_nodes[0]) == 1365 == last.searcher.tree.visits.shape[1]
    np.testing.assert_allclose(last.score, scores.max(), atol=1e-6)
    leaves = np.asarray(last.searcher.tree.score[0])[-1024:]
    np.testing.assert_allclose(np.sort(leaves), np.sort(scores), atol=2e-6)
    again = replay(problem_, last.best.noise, prompts)
    np.testing.assert_allclose(again.x, last.best.x, atol=2e-6)


def test_it_finds_one_of_the_best_sequences():
    """With 60 simulations of 1024 leaves; 99 of 100 random sequences are worse."""
    scores, problem_, prompts, key = all_leaves()
    one = mcts(branches=BRANCHES, simulations=12, exploration=0.05)
    *_, last = search_in_chunks(key, one, problem_, prompts, rounds_per_chunk=10**3)
    root = int(last.searcher.root[0])
    committed = float(last.searcher.tree.score[0, root])
    assert np.mean(scores < committed) > 0.99
    assert float(last.score[0]) >= committed


# ------------------------------------------------------------------------------------------ bandit


def test_a_bandit_is_played_as_mctx_plays_it():
    """One step of six noises, 80 pulls: the visits of every arm, by another library's tree.

    Kills: a bonus without its logarithm or its root; an arm that is scored twice.
    """
    mctx = pytest.importorskip("mctx")
    arms, pulls, exploration = 6, 80, 0.3
    problem_, prompts = problem("heun_edm"), toys.prompts(1)
    levels = noise_space(problem_, 1).levels
    one = mcts(
        branches=arms, simulations=pulls, exploration=exploration, window=(levels[2], levels[2])
    )
    *_, last = search_in_chunks(jax.random.key(3), one, problem_, prompts, rounds_per_chunk=10**3)
    tree = last.searcher.tree
    rewards = tree.score[0, 1 : arms + 1]
    assert len(np.unique(np.asarray(rewards))) == arms

    def ucb1(key, tree, node, depth=0):
        del key, depth
        visits = tree.children_visits[node]
        bonus = jnp.sqrt(jnp.log(jnp.maximum(jnp.sum(visits), 1)) / jnp.maximum(visits, 1))
        bound = tree.children_rewards[node] + exploration * bonus
        return jnp.argmax(jnp.where(visits > 0, bound, jnp.inf)).astype(jnp.int32)

    def pull(params, key, action, embedding):
        del params, key
        zeros = jnp.zeros((1,))
        output = mctx.RecurrentFnOutput(
            reward=rewards[action],
            discount=zeros,
            prior_logits=jnp.zeros((1, arms)),
            value=zeros,
        )
        return output, embedding

    root = mctx.RootFnOutput(
        prior_logits=jnp.zeros((1, arms)), value=jnp.zeros((1,)), embedding=jnp.zeros((1, 1))
    )
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = mctx.search(
            params=(),
            rng_key=jax.random.key(0),
            root=root,
            recurrent_fn=pull,
            root_action_selection_fn=ucb1,
            interior_action_selection_fn=ucb1,
            num_simulations=pulls,
        )
    np.testing.assert_array_equal(
        tree.visits[0, 1 : arms + 1], expected.children_visits[0, mctx.Tree.ROOT_INDEX]
    )
    assert float(np.ptp(np.asarray(tree.visits[0, 1 : arms + 1]))) > 3


# ----------------------------------------------------------------------------------------- rollouts


@pytest.mark.parametrize("leaves", [1, 2, 4])
def test_every_simulation_visits_and_unvisited_children_go_first(leaves):
    """The published code digs one path: its simulations of a step see none of each other.

    Kills: back-up after all simulations; visits under way that do not count; a leaf that grows
    twice in a round.
    """
    one = mcts(branches=4, simulations=4, leaves=leaves)
    problem_, prompts = problem("heun_edm"), toys.prompts(3)
    per_commitment = 2 * 4 // leaves  # two turns a round
    states = list(
        search_in_chunks(jax.random.key(1), one, problem_, prompts, rounds_per_chunk=per_commitment)
    )
    # The first stage passes the steps before those that take noise.
    edges = sum(cases.solvers()["heun_edm"].active)
    np.testing.assert_array_equal(states[-1].searcher.tree.visits[:, 0], 4 * edges)
    after_one = next(s for s in states if float(s.searcher.tree.visits[0, 0]) == 4)
    children = after_one.searcher.tree.visits[:, 1:5]
    np.testing.assert_array_equal(np.sum(children, axis=1), 4)
    if leaves == 4:  # all found while the root had no children: one grew, and each took one
        assert np.all(np.asarray(after_one.searcher.num_nodes) == 5)
    else:
        assert np.all(np.asarray(children) >= (1 if leaves == 1 else 0))


@pytest.mark.parametrize(("commit", "leaves"), [("visits", 2), ("mean", 2), ("visits", 4)])
def test_rounds_of_several_leaves_are_those_written_out(commit, leaves):
    """Scores are given beforehand; visits and rewards of every node, round by round.

    Kills: a reward that goes to another leaf; always the same child played; visits under way left
    out of the count or of the logarithm; the least visited child committed to.
    """
    branches, simulations, exploration, depth = 3, 8, 0.4, 5
    one = mcts(
        branches=branches,
        simulations=simulations,
        leaves=leaves,
        commit=commit,
        exploration=exploration,
    )
    space = noise_space(problem("flow_sde"), 1)
    (grow,) = one.stages(space)
    grow_ask, grow_tell, play_ask, play_tell = map(
        jax.jit, (grow.ask, grow.tell, grow.then.ask, grow.then.tell)
    )
    state = one.init(space, jax.random.key(1))
    root = Node(None, 0.0, 0, None)
    nodes, rng = [root], np.random.default_rng(5)
    for round in range(grow.rounds):
        under_way = dict.fromkeys(map(id, nodes), 0)
        found = []
        for _ in range(leaves):
            node = root
            while node.children:
                mean = node.total / node.visits if node.visits else 0.0
                above = node.visits + under_way[id(node)]
                bounds = []
                for child in node.children:
                    count = child.visits + under_way[id(child)]
                    own = child.mean if child.visits else mean
                    bonus = exploration * math.sqrt(math.log(above) / count) if count else math.inf
                    bounds.append(own + bonus)
                node = node.children[int(np.argmax(bounds))]
            found.append(node)
            path: Node | None = node
            while path is not None:
                under_way[id(path)] += 1
                path = path.parent

        def answered(proposal):
            """A score for every candidate."""
            scores = rng.uniform(size=proposal.parent.step.shape).astype(np.float32)
            child = proposal.parent._replace(step=proposal.parent.step + proposal.steps)
            return scores, Evaluation(child, jnp.asarray(scores), jnp.asarray(scores)[:, None])

        key = jax.random.key(100 + round)
        proposal = grow_ask(key, round, state)
        scores, evaluation = answered(proposal)
        state = grow_tell(key, round, state, proposal, evaluation)
        for place, node in enumerate(found):
            if node.depth < depth and not node.children:
                for number in range(branches):
                    score = float(scores[place * branches + number])
                    node.children.append(Node(None, score, node.depth + 1, node))
                nodes += node.children
        drawn = np.asarray(jax.random.randint(key, (leaves,), 0, branches))
        played = [
            node if node.depth == depth else node.children[n]
            for node, n in zip(found, drawn, strict=True)
        ]
        proposal = play_ask(key, round, state)
        scores, evaluation = answered(proposal)
        state = play_tell(key, round, state, proposal, evaluation)
        for node, score in zip(played, scores, strict=True):
            node.back_up(node.score if node.depth == depth else float(score))
        if round % (simulations // leaves) == simulations // leaves - 1:
            by = {"visits": lambda child: child.visits, "mean": lambda child: child.mean}[commit]
            root = max(root.children, key=by)
        assert int(state.num_nodes) == len(nodes)
        assert int(state.root) == nodes.index(root)
        tree = take(state.tree, slice(len(nodes)))
        np.testing.assert_array_equal(tree.visits, [node.visits for node in nodes])
        np.testing.assert_allclose(tree.total, [node.total for node in nodes], atol=1e-5)
    assert root.depth == depth


def test_children_found_twice_in_a_round_count_once():
    """The first round finds the root alone, as often as it finds leaves.

    Kills: a visit of node 0, or of another's path, for children that are not there.
    """
    one = mcts(branches=3, simulations=4, leaves=4, rollouts="value")
    problem_ = problem(value=lookahead())
    state = next(
        search_in_chunks(jax.random.key(2), one, problem_, toys.prompts(2), rounds_per_chunk=1)
    )
    tree = state.searcher.tree
    np.testing.assert_array_equal(state.searcher.num_nodes, 4)
    expected = np.zeros(tree.visits.shape)
    expected[:, :4] = [3, 1, 1, 1]
    np.testing.assert_array_equal(tree.visits, expected)
    np.testing.assert_allclose(tree.total[:, 0], np.sum(tree.score[:, 1:4], axis=1), rtol=1e-6)


def test_simulations_under_way_part_ways():
    """Four rounds of two: all but the first round go to children that nobody has tried.

    Kills: visits under way that do not count, so that both leaves of a round are the same.
    """
    one = mcts(branches=8, simulations=8, leaves=2)
    states = search_in_chunks(
        jax.random.key(2), one, problem("heun_edm"), toys.prompts(3), rounds_per_chunk=2
    )
    after_one = next(s for s in states if float(s.searcher.tree.visits[0, 0]) == 8)
    tried = np.sum(np.asarray(after_one.searcher.tree.visits[:, 1:9]) > 0, axis=1)
    assert np.all(tried >= 7)


def test_means_are_those_of_finished_samples_below():
    """Every reward is a finished sample's: a child's mean lies within those that were found."""
    one = mcts(branches=3, simulations=6)
    problem_, prompts = problem("heun_edm"), toys.prompts(2)
    states = list(search_in_chunks(jax.random.key(1), one, problem_, prompts, rounds_per_chunk=2))
    tree, best = states[-1].searcher.tree, np.asarray(states[-1].score)[:, None]
    visits, total = np.asarray(tree.visits), np.asarray(tree.total)
    mean = total / np.maximum(visits, 1)
    assert np.all(mean <= best + 1e-6)
    # What the children of a node got is what it got itself, but for visits it was a leaf in.
    for prompt, node in itertools.product(range(2), range(visits.shape[1])):
        child = int(tree.first_child[prompt, node])
        if child:
            below = slice(child, child + 3)
            assert visits[prompt, below].sum() in (visits[prompt, node], visits[prompt, node] - 1)
            depth = int(tree.depth[prompt, node])
            assert np.all(np.asarray(tree.depth[prompt, below]) == depth + 1)
            for number in range(child, child + 3):
                way = [*tree.path[prompt, node, :depth], number]
                np.testing.assert_array_equal(tree.path[prompt, number, : depth + 1], way)
                assert np.all(
                    np.asarray(tree.path[prompt, number, depth + 1 :]) == len(tree.depth[0])
                )


def test_failed_verifiers_leave_numbers_in_the_tree():
    """Kills: a reward of -inf or NaN that is added to every node above."""
    problem_ = problem("heun_edm", verifiers=(toys.judge(value=np.nan, fraction=0.5),))
    *_, last = search_in_chunks(
        jax.random.key(1), mcts(simulations=4), problem_, toys.prompts(4), rounds_per_chunk=99
    )
    assert np.all(np.isfinite(np.asarray(last.searcher.tree.total)))
    assert np.any(np.asarray(last.searcher.tree.total) > 0)


def test_its_storage_is_what_plan_states():
    """Kills: a tree that may outgrow its arrays."""
    one = mcts(branches=4, simulations=8)
    problem_, prompts = problem("heun_edm"), toys.prompts(2)
    active = sum(cases.solvers()["heun_edm"].active)
    nodes = 1 + 4 * 8 * active
    state = memory(one, problem_, prompts).state
    assert state > 2 * nodes * 4 * math.prod(toys.SHAPE)
    result = result_of(
        list(search_in_chunks(jax.random.key(0), one, problem_, prompts, rounds_per_chunk=99))[-1]
    )
    assert np.all(np.isfinite(np.asarray(result.score)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"branches": 0}, "branches is 0"),
        ({"simulations": 0}, "simulations is 0"),
        ({"leaves": 3}, "leaves is 3, which does not divide the 8 simulations"),
        ({"exploration": -1.0}, "exploration is -1.0"),
        ({"rollouts": "none"}, "unknown rollouts 'none': take 'sample' or 'value'"),
        ({"commit": "best"}, "unknown commit 'best'"),
        ({"every": 0}, "every is 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        mcts(**settings)


def test_a_solver_without_noise_is_refused():
    with pytest.raises(ValueError, match="mcts searches the noise injected at each step"):
        search(jax.random.key(0), mcts(), problem("ddim"), toys.prompts(1))
