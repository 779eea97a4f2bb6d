"""What a Spark job's processes hold while it runs, and whether the job failed for memory.

Such a failure would repeat itself, so the task is not retried and says what to change. The kernel's counter
distinguishes its own kills from anybody else's `kill -9`, which is retried. Of executors elsewhere, only the
text is known in which Spark, YARN, Kubernetes or EMR report the loss.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from sightline import memory

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 0.2
TREE_SECONDS = 1.0  # between two looks for new processes, which cost more
GROWTH = 1.03  # of the resident memory, from which on the costlier proportional size is read again
KILLED = "was killed for memory"

# How the loss of one of a job's processes shows in what spark-submit has printed.
LOST = {
    "its JVM": r"Error code is: -9\.",
    "its Python driver": r"Error code is: 137\.",
    "a training process": r"Signal 9 \(SIGKILL\)|a training process was killed for memory",
    "a data-loader process": r"DataLoader worker \(pid[^)]*\) (?:is killed by signal|exited unexpectedly)",
    "a Python worker": r"Python worker exited unexpectedly|Python worker failed to connect back",
}
# An executor whose loss failed the job, not one that Spark has replaced.
EXECUTOR_KILLED = re.compile(
    r"most recent failure: .{0,500}ExecutorLostFailure.{0,600}?"
    r"(?:exceeding (?:\w+ )?memory limits|possible container OOM|"
    r"exit status: 137|exit(?:ed with)? code(?: is)? 137)"
    r"|Worker has been killed as memory usage exceeded"  # EMR Serverless, of driver and executors
    r"|ExitCode: 137\b"
    r"|running beyond (?:physical|virtual) memory limits"  # YARN, of the driver's container, too
    r"|AM Container for .{0,80}exitCode: (?:-104|-103|137)",
    re.DOTALL | re.IGNORECASE,
)
HEAP_FULL = re.compile(
    r"java\.lang\.OutOfMemoryError: (?:Java heap space|GC overhead limit exceeded|Requested array size)"
)
ALLOCATION_FAILED = re.compile(
    r"^(?:\S+\.)?(?:_Array)?MemoryError\b|DefaultCPUAllocator: can't allocate memory|CUDA out of memory",
    re.MULTILINE,
)

ADVICE = {
    "fetch_images": "lower limits.image_megapixels and limits.image_megabytes",
    "fine_tune": "lower limits.memory, backbone.image_size or fine_tune.processes, choose a smaller backbone",
    "reduce": "lower reduce.components, choose a backbone with fewer features",
    "train": "lower reduce.components, choose a backbone with fewer features",
}
ADVICE["scaling_study"] = ADVICE["fine_tune"]
NETWORK_ADVICE = "lower backbone.image_size, choose a smaller backbone"  # featurize and score


@dataclass
class Held:
    """What a job's processes held together at most, and the kernel's kills for memory meanwhile."""

    peak_bytes: int = 0
    kills: int = 0


class _Tree:
    """A process and all below it."""

    def __init__(self, pid: int) -> None:
        self.root = psutil.Process(pid)
        self.processes: list[psutil.Process] = []
        self._listed_at = -TREE_SECONDS
        self._resident_bytes = 0.0  # when the peak was measured

    def measure(self) -> int:
        """What it holds, if that has grown since the last time; else 0."""
        if time.monotonic() - self._listed_at >= TREE_SECONDS:
            self.processes = [self.root, *self.root.children(recursive=True)]
            self._listed_at = time.monotonic()
        resident = sum(_resident(process) for process in self.processes)
        if resident <= self._resident_bytes * GROWTH:
            return 0
        self._resident_bytes = resident
        return memory.held_bytes(process.pid for process in self.processes)


@contextmanager
def watching(find_pid: Callable[[], int | None]) -> Iterator[Held]:
    """Watch the process that `find_pid` finds once it has started, and all below it, within the block."""
    held, ended, before = Held(), threading.Event(), memory.oom_kills()

    def look_on() -> None:
        tree = None
        while not ended.wait(SAMPLE_SECONDS):
            with suppress(psutil.Error):
                pid = find_pid()
                tree = tree or (_Tree(pid) if pid else None)
                held.peak_bytes = max(held.peak_bytes, tree.measure() if tree else 0)

    watcher = threading.Thread(target=look_on, daemon=True)
    watcher.start()
    try:
        yield held
    finally:
        ended.set()
        watcher.join()
        held.kills = memory.oom_kills() - before


def explain_failure(task: str, text: str, held: Held, heap: str) -> str | None:
    """Why a job of this machine's spark-submit failed, if it failed for memory: one sentence; else None."""
    victim = next((name for name, shown in LOST.items() if re.search(shown, text)), None)
    if held.kills and victim:
        return (
            f"{task} {KILLED} ({victim}): its processes held {memory.shown(held.peak_bytes)} of the "
            f"{memory.shown(memory.total_bytes())} that they may use; {advice(task)}, or use a machine with "
            "more memory."
        )
    if HEAP_FULL.search(text):
        return (
            f"{task} needs more than its Java heap of {heap}; set spark.driver.memory higher in compute.conf "
            "(on a cluster spark.executor.memory, too)."
        )
    if EXECUTOR_KILLED.search(text):
        return (
            f"{task} failed because an executor {KILLED}; {advice(task)}, or give executors more "
            "memory: set spark.executor.memoryOverhead higher in compute.conf."
        )
    if ALLOCATION_FAILED.search(text):
        return f"{task} ran out of memory; {advice(task)}, or use a machine with more memory."
    return None


def explain_emr_failure(task: str, text: str, gigabytes: int) -> str | None:
    """As `explain_failure`, for a job on EMR, whose executors and driver have so many gigabytes each."""
    more = f"set compute.executor_memory_gigabytes higher (now {gigabytes}), or {advice(task)}"
    if HEAP_FULL.search(text):
        return f"{task} needs more than the Java heap of its driver or of an executor; {more}."
    if EXECUTOR_KILLED.search(text):
        return f"{task} failed because its driver or an executor {KILLED}; {more}."
    if ALLOCATION_FAILED.search(text):
        return f"{task} ran out of memory; {more}."
    return None


def advice(task: str) -> str:
    """The settings that lower what a task holds."""
    return ADVICE.get(task, NETWORK_ADVICE)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
