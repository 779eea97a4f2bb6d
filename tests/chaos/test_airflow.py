"""kill -9 of Airflow's parts and of its tasks while digits run; and a power cut, after which `make run` is
given again. Minutes each: `make chaos` alone runs them."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sightline import airflow_processes
from sightline.airflow_processes import Part
from tests.chaos import given_again, killing
from tests.chaos.given_again import Harm
from tests.conftest import SIGHTLINE

pytestmark = pytest.mark.chaos_whole

DATASET = given_again.DATASET.format(images=200)
KINDS = ("scheduler", "api-server", "dag-processor", "task", "jvm", "power cut")


@pytest.fixture(autouse=True)
def stopped_at_the_end(own_places: Path) -> Iterator[None]:
    """No Airflow outlives the test."""
    yield
    subprocess.run([SIGHTLINE, "down"], check=False, capture_output=True, timeout=120)


def test_the_documented_command_mends_whatever_is_killed(own_places: Path) -> None:
    chance = random.Random(killing.SEED)

    def kill_one(kind: str, process: "subprocess.Popen[bytes]") -> bool:
        server = server_of(own_places)
        return server is not None and kill(kind, server, process, chance)

    harm = Harm(given_again.choose_kinds(KINDS, chance), kill_one, chance)
    environment = {**os.environ, "PYTHONPATH": f"{killing.HOME / 'include'}:{killing.HOME}"}
    given_again.check_laws_until_done(
        harm, own_places / "datasets", DATASET, environment, own_places
    )


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
