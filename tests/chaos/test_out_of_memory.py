"""Spark jobs whose processes the kernel kills for memory, beside the same processes killed by a signal."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.chaos.killing import HOME
from tests.conftest import write_dataset

pytestmark = pytest.mark.chaos

LIMIT_BYTES = 2 * 2**30  # a JVM, a Python driver and processes with torch take half of it
MOUNTS = {"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"}
ADVICE = "lower backbone.image_size, choose a smaller backbone, or use a machine with more memory."


@pytest.fixture
def small_group() -> Iterator[str]:
    """A control group whose processes have 2 GiB together, or a skip if we may not make one."""
    root = next((Path(path) for path in MOUNTS if Path(path).is_dir()), Path("/sys/fs/cgroup"))
    group = root / f"sightline-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / MOUNTS[str(root)]).write_text(str(LIMIT_BYTES))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no right to make a control group with a memory limit: {error}")
    yield str(group)
    assert not (group / "cgroup.procs").read_text()
    group.rmdir()


def fail(places: Path, way: str, group: str = "") -> tuple[str, str]:
    """Run the task `featurize` whose job dies in this way; returns the class of the error, and its text."""
    write_dataset(places, "photos", "source: {type: digits}\n")
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(places / "airflow"),
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[1]"}),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": f"{HOME / 'include'}:{HOME}",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    command = [sys.executable, "-m", "tests.chaos.limited_task", group, way]
    done = subprocess.run(
        command, cwd=HOME, env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    return told["kind"], told["text"]


@pytest.mark.parametrize(
    ("way", "victim"),
    [
        ("worker eat", "a Python worker"),
        ("driver eat", "its Python driver"),
        ("processes eat", "a training process"),
    ],
)
def test_a_process_killed_for_memory_fails_the_task_for_good_in_a_sentence(
    own_places: Path, small_group: str, way: str, victim: str
) -> None:
    kind, text = fail(own_places, way, small_group)
    assert kind == "AirflowFailException"
    assert text.startswith(f"featurize was killed for memory ({victim}): its processes held ")
    assert text.endswith(f" GiB of the 2.0 GiB that they may use; {ADVICE}")


@pytest.mark.parametrize("way", ["worker die", "driver die"])
def test_the_same_process_killed_by_a_signal_is_tried_again(own_places: Path, way: str) -> None:
    kind, text = fail(own_places, way)
    assert kind == "AirflowException"
    assert "for memory" not in text


def test_a_full_java_heap_fails_the_task_for_good(own_places: Path) -> None:
    assert fail(own_places, "heap full") == (
        "AirflowFailException",
        "featurize needs more than its Java heap of 512m; set spark.driver.memory higher in "
        "compute.conf (on a cluster spark.executor.memory, too).",
    )
