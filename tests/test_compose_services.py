"""Each service of docker-compose.yaml started by its own command as a process, healthy by its own check,
and gone by its own stop signal. Marquez is in no registry that a test may reach, so its two are left out.
"""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import compose
from tests.compose import HOME, Service, World, running

pytestmark = pytest.mark.nightly

NOT_HERE = {"marquez", "marquez-web"}
AT_ONCE = {"airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "spark-worker"}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Folders and ports for all services; secrets by the script that people use."""
    made = subprocess.run(
        [HOME / "deploy" / "make_env.sh"], capture_output=True, text=True, check=True
    )
    lines = [line for line in made.stdout.splitlines() if line and not line.startswith("#")]
    secrets = dict(line.split("=", 1) for line in lines)
    with tempfile.TemporaryDirectory(prefix="compose-") as folder:
        root = Path(folder)
        root.chmod(0o755)  # Postgres' own user passes through
        for inner in ("sightline/airflow/logs", "sightline/state", "objects"):
            (root / inner).mkdir(parents=True)
        yield World(root, compose.read_services(secrets))


@pytest.fixture(scope="module")
def services(world: World) -> Iterator[dict[str, Service]]:
    """Every service, started in the order that depends_on gives, each healthy before what needs it."""
    if compose.postgres_programs() is None:
        pytest.skip("Debian's postgresql is not installed; 'make cluster' does it")
    if not compose.has_program("weed"):
        pytest.skip("SeaweedFS is not installed; requirements-dev.txt has it")
    with ExitStack() as stack:
        started: dict[str, Service] = {}
        for name in in_order(world.services):
            options = make_cluster(world) if name == "postgres" else {}
            started[name] = stack.enter_context(running(world, name, **options))
            if name == "prepare":
                assert started[name].process.wait(timeout=180) == 0, started[name].tail()
            elif name not in AT_ONCE:
                started[name].wait_until_healthy()
            if name == "postgres":
                make_databases(world)
        for name in AT_ONCE:
            started[name].wait_until_healthy()
        yield started


def in_order(services: dict[str, dict[str, Any]]) -> list[str]:
    """The services that run here, each after those that it depends on."""
    order: list[str] = []

    def add(name: str) -> None:
        for needed in services[name].get("depends_on", {}):
            add(needed)
        if name not in order and name not in NOT_HERE:
            order.append(name)

    for name in services:
        add(name)
    return order


def make_cluster(world: World) -> dict[str, Any]:
    """What the image of Postgres does before its command: initdb, as a user who is not root."""
    place = Path(world.environment("postgres")["PGDATA"])
    place.mkdir(parents=True)
    password = place.parent / "password"
    password.write_text(world.services["postgres"]["environment"]["POSTGRES_PASSWORD"])
    owner: dict[str, Any] = {}
    if os.getuid() == 0:
        user = pwd.getpwnam("postgres")
        owner = {"user": user.pw_uid, "group": user.pw_gid}
        for path in (place, place.parent, password):
            shutil.chown(path, user.pw_uid, user.pw_gid)
    programs = compose.postgres_programs()
    subprocess.run(
        [f"{programs}/initdb", "--pgdata", place, "--auth=scram-sha-256", "--username=postgres"]
        + ["--encoding=UTF8", f"--pwfile={password}"],
        check=True,
        capture_output=True,
        cwd="/",
        **owner,
    )
    port = world.port("postgres", "5432")
    with (place / "postgresql.auto.conf").open("a") as stream:
        stream.write(f"port = {port}\nunix_socket_directories = '{place}'\n")
    return owner


def make_databases(world: World) -> None:
    """The script that the image runs when its volume is new."""
    environment = world.environment("postgres")
    address = {"PGHOST": compose.HOST, "PGPORT": str(world.port("postgres", "5432"))}
    password = {"PGPASSWORD": environment["POSTGRES_PASSWORD"]}
    subprocess.run(
        [HOME / "deploy" / "databases.sh"], env={**environment, **address, **password}, check=True
    )


def test_every_service_is_healthy_by_its_own_check(services: dict[str, Service]) -> None:
    ended = [name for name, one in services.items() if one.process.poll() is not None]
    assert ended == ["prepare"]
    assert set(services) == set(services["postgres"].world.services) - NOT_HERE
    for name, service in services.items():
        assert name == "prepare" or service.is_healthy(), name


def test_the_admin_logs_in_with_the_password_of_the_env_file(services: dict[str, Service]) -> None:
    world = services["postgres"].world
    password = world.services["airflow-api-server"]["environment"]["SIGHTLINE_ADMIN_PASSWORD"]
    address = f"http://{compose.HOST}:{world.port('airflow-api-server', '8080')}"
    with httpx.Client(base_url=address, timeout=60) as client:
        refused = client.post("/auth/token", json={"username": "admin", "password": "admin"})
        assert refused.status_code == 401
        token = client.post("/auth/token", json={"username": "admin", "password": password}).json()
        held = {"Authorization": f"Bearer {token['access_token']}"}
        pools = client.get("/api/v2/pools", headers=held).json()["pools"]
        assert {"sightline_spark", "sightline_flickr"} <= {pool["name"] for pool in pools}
    log = services["airflow-api-server"].log.read_text()
    assert password not in log


def test_the_worker_is_known_to_the_master(services: dict[str, Service]) -> None:
    world = services["spark-master"].world
    address = f"http://{compose.HOST}:{world.port('spark-master', '8080')}/json/"
    workers = httpx.get(address).json()["workers"]
    assert [worker["state"] for worker in workers] == ["ALIVE"]


def test_no_secret_stands_in_a_command_line(services: dict[str, Service]) -> None:
    world = services["postgres"].world
    secrets = {
        value
        for spec in world.services.values()
        for name, value in spec.get("environment", {}).items()
        if re.search("PASSWORD|SECRET|FERNET", name)
    }
    for name, service in services.items():
        for process in compose.in_session(service.process.pid):
            assert not any(str(one) in " ".join(process.cmdline()) for one in secrets), name


def test_every_service_ends_by_its_stop_signal_and_leaves_nothing(
    services: dict[str, Service],
) -> None:
    for name in reversed([name for name in services if name != "prepare"]):
        code, left = services[name].stop()
        assert left == [], name
        assert code in (0, 143, -15, -2, 130), (name, code, services[name].tail())
