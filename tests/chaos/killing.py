"""kill -9 at random moments: the seed and every kill are logged, so that a failure can be told again."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from sightline.settings import load_settings
from sightline.spark import QUICK_JVM

log = logging.getLogger(__name__)

HOME = Path(__file__).parents[2]
SEED = int(os.environ.get("SIGHTLINE_CHAOS_SEED", "1"))
SIZE = int(os.environ.get("SIGHTLINE_CHAOS_SIZE", "1"))  # 1 in CI; `make chaos` asks for more
NIGHT_SECONDS = 900
TRIES = 60  # of one night
FURTHEST = 3  # tasks from one kill to the next
LONGEST_SECONDS = 4.0  # into a task

Victims = Callable[[int], list[psutil.Process]]


@dataclass
class Killed:
    """What was killed, and what it took."""

    by_kind: Counter[str] = field(default_factory=Counter)
    by_task: Counter[str] = field(default_factory=Counter)
    tries: int = 0  # processes that were started

    @property
    def total(self) -> int:
        """All kills."""
        return self.by_kind.total()


def driver(pid: int) -> list[psutil.Process]:
    """The program itself."""
    return [psutil.Process(pid)]


def jvm(pid: int) -> list[psutil.Process]:
    """Spark's JVM: driver and executor of a local Spark."""
    return [one for one in _below(pid) if "java" in one.name()]


def worker(pid: int) -> list[psutil.Process]:
    """One of Spark's Python workers."""
    return [one for one in _below(pid) if "daemon" in command(one)][-1:]


def everything(pid: int) -> list[psutil.Process]:
    """All of it at once, as a power cut."""
    return [psutil.Process(pid), *_below(pid)]


VICTIMS: dict[str, Victims] = {
    "driver": driver, "jvm": jvm, "worker": worker, "everything": everything,
}  # fmt: skip


def run_night(dataset: str, partition: str, kills: int, chance: random.Random) -> Killed:
    """Run a night and kill something of it so many times, each at a random moment of one of the next few
    tasks; it is started again, until it ends well. AssertionError where it does not.
    """
    killed, run_id = Killed(), f"night__{partition}"
    deadline = time.monotonic() + NIGHT_SECONDS
    code, sessions = 1, list[int]()
    try:
        while code and killed.tries < TRIES:
            process, output = _start(dataset, partition, run_id, killed.tries)
            sessions.append(process.pid)
            killed.tries += 1
            while process.poll() is None and killed.total < kills:
                goal = _tasks_begun(output) + chance.randint(0, FURTHEST)
                while process.poll() is None and _tasks_begun(output) < goal:
                    wait(process, 0.05)
                wait(process, chance.uniform(0, LONGEST_SECONDS))
                _kill_one(process, chance, killed, output)
            code = process.wait(max(1.0, deadline - time.monotonic()))
            # Nobody is waited for: a JVM whose driver is gone ends by itself, beside the next try.
            assert code == 0 or killed.total, output.read_text()[-3000:]
    finally:
        for pid in sessions:
            _kill(_session(pid))
    assert code == 0, output.read_text()[-3000:]
    return killed


def _start(
    dataset: str, partition: str, run_id: str, number: int
) -> tuple["subprocess.Popen[bytes]", Path]:
    output = load_settings().state / f"{run_id}-{number:03d}.log"
    output.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HOME / 'include'}:{HOME}",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_DIRS": str(load_settings().state / "spark"),
        "SIGHTLINE_SPARK_MASTER": "local[2,4]",  # a lost worker costs no job
        "PYSPARK_SUBMIT_ARGS": f"--driver-java-options '{' '.join(QUICK_JVM)}' pyspark-shell",
    }
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.night", dataset, partition, run_id],
            cwd=HOME, env=environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return process, output


def wait(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait for so long, or for the end of a process: a random moment is what is wanted."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _begun(output: Path) -> list[str]:
    lines = output.read_text(errors="replace").splitlines()
    return [line.split()[1] for line in lines if line.startswith("task ")]


def _tasks_begun(output: Path) -> int:
    return len(_begun(output))


def _kill_one(
    process: "subprocess.Popen[bytes]", chance: random.Random, killed: Killed, output: Path
) -> None:
    kind = chance.choice(sorted(VICTIMS))
    if process.poll() is not None:
        return
    victims = VICTIMS[kind](process.pid)
    if not victims:  # no Spark is at work in this moment
        kind, victims = "driver", driver(process.pid)
    _kill(victims)
    task = (_begun(output) or ["start"])[-1]
    killed.by_kind[kind] += 1
    killed.by_task[task] += 1
    log.info("kill %d: %s in %s (try %d)", killed.total, kind, task, killed.tries)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _session(pid: int) -> list[psutil.Process]:
    """What is left of a session whose first process is gone: orphans that may still write."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid:
                found.append(process)
        except OSError:
            continue
    return found


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
