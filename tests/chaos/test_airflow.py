"""kill -9 of Airflow's parts and of its tasks while digits run; and a power cut, after which `make run` is
given again. Minutes each: `make chaos` alone runs them."""

import json
import logging
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from sightline import airflow_processes, tables
from sightline.airflow_processes import Part
from sightline.catalog import open_catalog
from tests.chaos import killing, laws
from tests.conftest import SIGHTLINE, write_dataset

pytestmark = pytest.mark.chaos_whole
log = logging.getLogger(__name__)

DATASET = """
source: {type: digits}
backbone: {name: resnet18, weights: random, image_size: 32}
reduce: {components: 16}
train: {penalties: [0.01], folds: 2, max_iterations: 20}
limits: {images_per_commit: 200}
"""
IMAGES = 1_797
RUN_SECONDS = 900
KINDS = ("scheduler", "api-server", "dag-processor", "task", "jvm", "power cut")
LONGEST_SECONDS = 45.0  # from one kill to the next


@dataclass
class Told:
    """What was done to a dataset, and what it took."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0  # of `sightline run`, the documented command
    said: list[str] = field(default_factory=list)


@pytest.fixture(autouse=True)
def stopped_at_the_end(own_places: Path) -> Iterator[None]:
    """No Airflow outlives the test."""
    yield
    subprocess.run([SIGHTLINE, "down"], check=False, capture_output=True, timeout=120)


def test_the_documented_command_mends_whatever_is_killed(own_places: Path) -> None:
    chance, told = random.Random(killing.SEED), Told()
    wanted = list(KINDS) * max(1, killing.SIZE // 5)
    chance.shuffle(wanted)
    number = 0
    while wanted:
        number += 1
        spec = write_dataset(own_places, f"digits_{number}", DATASET)
        catalog, runs = open_catalog(spec.name), 0
        while run_once(own_places, spec.name, wanted, chance, told) != 0:
            runs += 1
            assert runs < 12, told.said
        laws.check_rows(catalog)
        laws.check_champion(catalog)
        laws.check_no_orphans(spec, catalog)
        laws.check_rows(catalog)
        assert tables.count_rows(catalog.images) + tables.count_rows(catalog.rejects) == IMAGES
    log.warning("%d runs of %d datasets, kills: %s", told.runs, number, dict(told.kills))


def run_once(
    places: Path, dataset: str, wanted: list[str], chance: random.Random, told: Told
) -> int:
    """`sightline run`, and kills at random moments of it; returns its exit code."""
    told.runs += 1
    output = places / f"run-{told.runs:03d}.log"
    environment = {**os.environ, "PYTHONPATH": f"{killing.HOME / 'include'}:{killing.HOME}"}
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [SIGHTLINE, "run", dataset], env=environment, cwd=killing.HOME,
            stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + RUN_SECONDS
    while process.poll() is None and wanted:
        killing.wait(process, chance.uniform(1, LONGEST_SECONDS))
        server = server_of(places)
        if process.poll() is None and server and kill(wanted[-1], server, process, chance):
            kind = wanted.pop()
            told.kills[kind] += 1
            log.warning("kill %d: %s in run %d", told.kills.total(), kind, told.runs)
    code = process.wait(max(1.0, deadline - time.monotonic()))
    told.said.append(output.read_text()[-400:])
    log.warning(
        "run %d ended with %d: %s", told.runs, code, told.said[-1].strip().splitlines()[-1:]
    )
    return code


def server_of(places: Path) -> tuple[dict[str, Part], str] | None:
    """The parts of the local Airflow that is up, and its mark."""
    record = places / "state" / "airflow" / "server.json"
    try:
        found = json.loads(record.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return {name: Part(**part) for name, part in found["parts"].items()}, found["mark"]


def kill(
    kind: str, server: tuple[dict[str, Part], str], process: "subprocess.Popen[bytes]", chance: random.Random
) -> bool:  # fmt: skip
    """Kill one of a kind; False where none is at work now."""
    parts, mark = server
    if kind in parts:
        victims = [psutil.Process(parts[kind].pid)] if parts[kind].is_alive() else []
    else:
        victims = CHOOSE[kind](airflow_processes.processes_of(parts.values(), mark), chance)
    if kind == "power cut":
        victims = [psutil.Process(process.pid), *victims]
    for victim in victims:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    return bool(victims)


def tasks(found: list[psutil.Process], chance: random.Random) -> list[psutil.Process]:
    """A process of a task: below the scheduler, but for Java."""
    running = [one for one in found if killing.command(one).startswith("airflow worker") or
               "task runner" in killing.command(one)]  # fmt: skip
    return [chance.choice(running)] if running else []


def jvms(found: list[psutil.Process], chance: random.Random) -> list[psutil.Process]:
    """The JVM of a Spark task."""
    return [one for one in found if "spark" in killing.command(one) and "java" in one.name()][:1]


def all_of_them(found: list[psutil.Process], chance: random.Random) -> list[psutil.Process]:
    """Everything at once."""
    return found


CHOOSE: dict[str, Callable[[list[psutil.Process], random.Random], list[psutil.Process]]] = {
    "task": tasks, "jvm": jvms, "power cut": all_of_them,
}  # fmt: skip
