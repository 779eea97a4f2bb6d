"""Chunks on cores, event by event: as spark.run_chunks works, with commits that get through one by one.

The formulas of `parts` say when a stage ends if nothing is in the way. Here tasks differ in length, the last
of a chunk holds its commit up, executors are lost, and whoever commits waits for those before it.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stage:
    """A stage to be simulated."""

    chunks: int
    parts: int  # Spark tasks of a chunk
    task_seconds: float  # of one core, on average
    chunks_at_once: int
    cores: int
    commit_seconds: Callable[[int], float]  # by how many chunks are committed already
    spread: float = 0.1  # of a task's seconds, as a share of them
    tasks_a_loss: float = float(
        "inf"
    )  # one task in so many is lost with its executor and done again


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    seconds: float
    busy: float  # share of the cores' time
    commits_waiting: int  # the most at one moment


def simulate(stage: Stage, seed: int = 0) -> Outcome:
    """Work a stage off; the same seed is the same course."""
    rng = np.random.default_rng(seed)
    tasks: deque[int] = deque()  # by their chunk
    left = [stage.parts] * stage.chunks
    running: list[tuple[float, int]] = []  # ends of tasks
    begun = committed = waiting = most_waiting = 0
    now = busy = committer_free = 0.0
    commits: list[float] = []  # ends

    def seconds() -> float:
        lost = stage.task_seconds * rng.random() if rng.random() * stage.tasks_a_loss < 1 else 0.0
        return max(0.0, stage.task_seconds * (1 + stage.spread * rng.standard_normal())) + lost

    while committed < stage.chunks:
        while begun < stage.chunks and begun - committed < stage.chunks_at_once:
            tasks.extend([begun] * stage.parts)
            begun += 1
        while tasks and len(running) < stage.cores:
            took = seconds()
            busy += took
            heapq.heappush(running, (now + took, tasks.popleft()))
        if running and (not commits or running[0][0] <= commits[0]):
            now, chunk = heapq.heappop(running)
            left[chunk] -= 1
            if not left[chunk]:
                began = max(now, committer_free)
                committer_free = began + stage.commit_seconds(committed + waiting)
                heapq.heappush(commits, committer_free)
                waiting += 1
                most_waiting = max(most_waiting, waiting)
        else:
            now = heapq.heappop(commits)
            committed, waiting = committed + 1, waiting - 1
    return Outcome(now, busy / (now * stage.cores) if now else 0.0, most_waiting)
