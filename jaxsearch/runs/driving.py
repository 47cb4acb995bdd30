"""Searches one after the other: the device kept busy, and all saved when asked to stop."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from rich.console import Console

from jaxsearch.core.host import Score, search_on_host
from jaxsearch.core.search import search_in_chunks, start
from jaxsearch.core.types import Prompts, SearchState
from jaxsearch.parallel import particle_mesh
from jaxsearch.runs.build import Built
from jaxsearch.runs.checkpoint import Checkpoints
from jaxsearch.runs.errors import explained
from jaxsearch.runs.interruption import Interruption
from jaxsearch.runs.progress import CompileClock, Pace


def mesh_of(devices: int | None, model_devices: int = 1) -> Mesh | None:
    """The mesh that `--devices` and `--model-devices` ask for.

    Raises:
        UserError: if there are not so many, or they cannot be divided so.
    """
    with explained("devices"):
        return particle_mesh(devices, model=model_devices)


@dataclasses.dataclass
class Program:
    """What searches of equal programs have in common.

    Attributes:
        microbatch: particles run at once; None: all of them.
        particles: the most of one round.
        pace: of their chunks.
    """

    microbatch: int | None
    particles: int
    pace: Pace = dataclasses.field(default_factory=Pace)

    def halve(self) -> str:
        """Runs half as many particles at once, after a device ran out of memory; says so.

        Raises:
            RuntimeError: if there was but one.
        """
        before = min(self.microbatch or self.particles, self.particles)
        if before == 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: not even one particle fits")
        self.microbatch = (before + 1) // 2
        return (
            f"out of memory with {before} particles at once: going on with {self.microbatch}; "
            f"--microbatch {self.microbatch} from the beginning saves the attempt"
        )


@dataclasses.dataclass
class Job:
    """One search: what is searched, how, and where it is saved.

    Attributes:
        built: its searcher and problem.
        key: of the search.
        prompts: [P].
        program: what it has in common with others.
        checkpoints: of the search.
        about: the caller's own.
        score: what judges candidates on the host, for so many images at once; None: the problem's
            verifiers do, inside the program.
        state: the last one that is known to be done.
        seconds: spent on it so far, without compiling.
    """

    built: Built
    key: jax.Array
    prompts: Prompts
    program: Program
    checkpoints: Checkpoints
    about: Any = None
    score: Callable[[int | None], Score] | None = None
    state: SearchState | None = None
    seconds: float = 0.0

    @property
    def reached(self) -> SearchState:
        """The last state, of a search that has one."""
        assert self.state is not None
        return self.state

    @property
    def rounds(self) -> int:
        """Done so far."""
        return 0 if self.state is None else int(self.state.round)

    @property
    def finished(self) -> bool:
        """Whether all of its rounds are done."""
        return self.state is not None and self.rounds == self.state.trace.best.shape[0]

    def chunks(self, mesh: Mesh | None) -> Iterator[SearchState]:
        """The states to come, each after some rounds."""
        built = self.built
        how: dict[str, Any] = {
            "state": self.state, "microbatch": self.program.microbatch, "mesh": mesh
        }  # fmt: skip
        if self.score is not None:
            score = self.score(self.program.microbatch)
            yield from search_on_host(
                self.key, built.searcher, built.problem, self.prompts, score, **how
            )
        else:
            yield from search_in_chunks(
                self.key, built.traced, built.problem, self.prompts,
                rounds_per_chunk=self.program.pace, **how,
            )  # fmt: skip

    def restore(self) -> None:
        """Goes on where it was saved, if it was.

        Raises:
            UserError: if what was saved cannot be read.
        """

        def shapes() -> SearchState:
            searcher, problem = self.built.searcher, self.built.problem
            return jax.eval_shape(lambda k: start(k, searcher, problem, self.prompts), self.key)

        restored = self.checkpoints.restore(shapes)
        if restored is not None:
            self.state, self.seconds = restored

    def save(self) -> None:
        """Saves the last state, now."""
        if self.state is not None:
            self.checkpoints.save(self.state, self.seconds)
            self.checkpoints.wait()


class StoppedError(Exception):
    """A signal came; no search is under way any more."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


class GivenUpError(Exception):
    """A search cannot go on; others can."""


class _Sent(NamedTuple):
    """Rounds on their way to the device."""

    job: Job
    state: SearchState
    at: float
    compiled: float  # seconds of compiling before


GiveUp = Callable[[Job, str], None]
"""Is told of a job that is given up, and why."""


def _send(
    jobs: Iterable[Job], mesh: Mesh | None, clock: CompileClock, give_up: GiveUp | None
) -> Iterator[_Sent]:
    for job in jobs:
        if job.finished:  # it was saved after its last round
            yield _Sent(job, job.reached, time.monotonic(), clock.seconds)
        chunks = job.chunks(mesh)
        at, compiled = time.monotonic(), clock.seconds
        try:
            for state in chunks:
                yield _Sent(job, state, at, compiled)
                at, compiled = time.monotonic(), clock.seconds
        except GivenUpError as error:
            if give_up is None:
                raise
            give_up(job, str(error))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it is a device's complaint that its memory is full."""
    return str(error).startswith("RESOURCE_EXHAUSTED")


def drive(
    jobs: Iterable[Job],
    *,
    mesh: Mesh | None,
    clock: CompileClock,
    interruption: Interruption,
    console: Console,
    give_up: GiveUp | None = None,
) -> Iterator[tuple[Job, float]]:
    """Carries out searches in turn, and gives each back with every chunk of rounds that is done.

    With it come the seconds that the chunk took, those of compiling left out. Where chunks are
    short, the next one, be it another job's, is sent before the one before is done, so that the
    device never waits for the host. States are offered to the checkpoints of their job.

    Where a device runs out of memory, half as many particles are run at once from the last state
    on, and the console is told. A job of which not even one particle fits is given up, if there is
    someone to tell, and so is one whose score raises `GivenUpError`; without, that is an error.

    Raises:
        StoppedError: on Ctrl-C or SIGTERM, once what was sent is done and the search that it
            is about is saved.
    """
    queue: collections.deque[_Sent] = collections.deque()
    last: Job | None = None  # the last one that was begun
    asking = False  # whether a job is being made
    ended = (time.monotonic(), clock.seconds)

    def noted(jobs: Iterator[Job]) -> Iterator[Job]:
        nonlocal asking, last
        while True:
            asking = True
            job = next(jobs, None)
            asking = False
            if job is None:
                return
            last = job
            yield job

    def receive() -> tuple[Job, float]:
        nonlocal ended
        job, state, at, compiled = queue[0]
        jax.block_until_ready(state)
        queue.popleft()
        # The device begins when it has been told to, and is done with what was before.
        begun, before = max(ended, (at, compiled)), job.rounds
        ended = (time.monotonic(), clock.seconds)
        seconds = max(ended[0] - begun[0] - (ended[1] - begun[1]), 1e-6)
        job.state, job.seconds = state, job.seconds + seconds
        if job.rounds > before:
            job.program.pace.learn(job.rounds - before, seconds)
        job.checkpoints.offer(state, job.seconds)
        return job, seconds

    def again(error: RuntimeError, failed: Job | None) -> Iterator[Job]:
        """The jobs that are left, with half the particles for the one that failed."""
        if not out_of_memory(error) or asking or failed is None or last is None:
            raise error
        jobs = {id(job): job for job in (*(sent.job for sent in queue), last)}
        queue.clear()
        try:
            console.print(failed.program.halve(), highlight=False)
        except RuntimeError as nothing:
            if give_up is None:
                raise
            give_up(failed, str(nothing))
            del jobs[id(failed)]
        return itertools.chain(jobs.values(), source)

    source = iter(jobs)
    sending = _send(noted(source), mesh, clock, give_up)
    try:
        while True:
            try:
                sent = None if interruption.wanted else next(sending, None)
            except RuntimeError as error:
                sending = _send(noted(again(error, last)), mesh, clock, give_up)
                continue
            if sent is not None:
                queue.append(sent)
            ahead = 1 if sent is not None and sent.job.program.pace.short else 0
            try:
                while len(queue) > ahead:
                    yield receive()
            except RuntimeError as error:
                sending = _send(noted(again(error, queue[0].job)), mesh, clock, give_up)
                continue
            if sent is None:
                break
        if interruption.wanted:
            if last is not None and not last.finished:
                last.save()
            raise StoppedError(interruption.wanted)
    finally:
        if last is not None:
            last.checkpoints.wait()
