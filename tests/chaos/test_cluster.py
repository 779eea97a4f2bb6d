"""kill -9 of a cluster's parts while digits run on it: Spark's master, workers, executors and drivers,
Postgres and one of its backends; and an S3 server that stands still. Each part is started again as
compose's restart policies do. Minutes each: `make chaos` alone runs them."""

import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.chaos import given_again, killing
from tests.chaos.given_again import Harm
from tests.cluster_processes import kept_up
from tests.clusters import Cluster, start_cluster
from tests.conftest import SIGHTLINE

pytestmark = pytest.mark.chaos_whole

DATASET = given_again.DATASET.format(images=100)
LONGEST_STILL_SECONDS = 40.0  # longer than a client waits for an answer before it asks again
AT_WORK = "postgres: airflow airflow "  # how Postgres names a process that serves one connection


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose parts are started again; no Airflow outlives it."""
    with start_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        with kept_up(list(cluster.parts.values())):
            yield cluster
        down = [SIGHTLINE, "down"]
        subprocess.run(down, env=cluster.environment, check=False, capture_output=True, timeout=120)


def test_whatever_of_a_cluster_is_killed_each_image_is_there_once(
    cluster: Cluster, own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.be_seen(monkeypatch)
    chance = random.Random(killing.SEED)

    def kill(kind: str, process: "subprocess.Popen[bytes]") -> bool:
        victims = VICTIMS[kind](cluster)
        if not victims or not harmed(kind, chance.choice(victims), process, chance):
            return False
        if kind == "forgetful master":
            shutil.rmtree(cluster.folder / "master")
        return True

    kinds = given_again.choose_kinds(tuple(VICTIMS), chance)
    harm = Harm(kinds, kill, chance, longest_seconds=90)  # over the whole run
    given_again.check_laws_until_done(
        harm, cluster.datasets, DATASET, cluster.environment, cluster.folder
    )


def harmed(
    kind: str, victim: psutil.Process, process: "subprocess.Popen[bytes]", chance: random.Random
) -> bool:
    """Kill a process, or let it stand still for a while; False where it has just ended by itself."""
    try:
        victim.send_signal(signal.SIGSTOP if kind == "store" else signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    if kind == "store":
        try:
            killing.wait(process, chance.uniform(20, LONGEST_STILL_SECONDS))
        finally:
            victim.send_signal(signal.SIGCONT)
    return True


def executors(cluster: Cluster) -> list[psutil.Process]:
    """The JVMs below Spark's workers."""
    workers = [one for name in cluster.parts if "worker" in name for one in part(cluster, name)]
    found = [one for worker in workers for one in below(worker)]
    return [one for one in found if "CoarseGrainedExecutorBackend" in killing.command(one)]


def workers(cluster: Cluster) -> list[psutil.Process]:
    """Spark's workers that have an executor."""
    return [parent for one in executors(cluster) if (parent := one.parent())]


def masters(cluster: Cluster) -> list[psutil.Process]:
    """Spark's master, while a job is at work."""
    return part(cluster, "spark-master") if executors(cluster) else []


def drivers(cluster: Cluster) -> list[psutil.Process]:
    """The JVMs of spark-submit: they name the master."""
    told = f"--master {cluster.environment['SIGHTLINE_SPARK_MASTER']}"
    commands = {one: killing.command(one) for one in psutil.process_iter()}
    return [one for one, text in commands.items() if "SparkSubmit" in text and told in text]


def backends(cluster: Cluster) -> list[psutil.Process]:
    """The processes of Postgres that serve Airflow's connections."""
    found = [one for postmaster in part(cluster, "postgres") for one in below(postmaster)]
    return [one for one in found if killing.command(one).startswith(AT_WORK)]


def part(cluster: Cluster, name: str) -> list[psutil.Process]:
    """A part's own process, while it lives."""
    try:
        return [psutil.Process(cluster.parts[name].pid)]
    except psutil.NoSuchProcess:
        return []


def below(process: psutil.Process) -> list[psutil.Process]:
    """All that a process has started."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


VICTIMS: dict[str, Callable[[Cluster], list[psutil.Process]]] = {
    "worker": workers,
    "executor": executors,
    "driver": drivers,
    "master": masters,
    "forgetful master": masters,
    "backend": backends,
    "postmaster": lambda cluster: part(cluster, "postgres"),
    "store": lambda cluster: part(cluster, "s3"),
}
