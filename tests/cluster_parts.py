"""A cluster's parts on this machine, each the real one: Postgres, an S3 server, Spark's master and workers,
and a server that keeps what OpenLineage tells. All are processes of ours, and end with their block.
"""

import getpass
import http.server
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import psycopg

from tests.cluster_processes import HOST, Part, free_port, running, wait_until

PROGRAMS = Path(sys.executable).parent
BUCKET = "sightline-test"
QUICK_JVM = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
DAEMON = {
    "SPARK_DAEMON_MEMORY": "256m",
    "SPARK_DAEMON_JAVA_OPTS": QUICK_JVM,
    "SPARK_LOCAL_IP": HOST,  # else their pages are on every address of the machine
}


@contextmanager
def postgres(database: str = "airflow") -> Iterator[tuple[str, Part]]:
    """A Postgres with a password; yields the database's address as SQLAlchemy names it, and its process."""
    port, password = free_port(), secrets.token_urlsafe(12)
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        data, secret = f"{folder}/data", Path(folder) / "password"
        secret.write_text(password)
        give_to(user, folder, str(secret))
        made = [
            str(postgres_programs() / "initdb"),
            "--no-sync",
            "--auth=scram-sha-256",
            "-D",
            data,
        ]
        run_as(user, folder, [*made, "--username=airflow", f"--pwfile={secret}", "--encoding=UTF8"])
        command = [str(postgres_programs() / "postgres"), "-D", data, "-h", HOST, "-p", str(port)]
        command += ["-k", folder, "-c", "fsync=off", "-c", "shared_buffers=64MB"]
        told = f"host={HOST} port={port} user=airflow password={password} dbname=postgres"
        with running("postgres", command, Path(folder), user=user, stop=signal.SIGINT) as part:
            wait_until(part, lambda: bool(connected(told)), "Postgres")
            with psycopg.connect(told, autocommit=True) as connection:
                connection.execute(f'CREATE DATABASE "{database}"'.encode())
            yield f"postgresql+psycopg://airflow:{password}@{HOST}:{port}/{database}", part


@contextmanager
def s3(folder: Path) -> Iterator[tuple[dict[str, str], Part]]:
    """An S3 server with an empty bucket; yields the variables by which all its clients find it, and its
    process, with which all that it holds would end."""
    port = free_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
        "AWS_ACCESS_KEY_ID": "a-key-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(24),
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with running("s3", command, folder) as part:
        wait_until(part, lambda: answers(variables["AWS_ENDPOINT_URL"]), "the S3 server")
        bucket_of(variables).create()
        yield variables, part


def bucket_of(variables: dict[str, str]) -> Any:
    """The bucket of an S3 server, as boto3 sees it."""
    resource = boto3.resource(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_REGION"],
    )
    return resource.Bucket(BUCKET)


@dataclass(frozen=True)
class Master:
    """Spark's master: its address, that of its pages, its process."""

    address: str
    pages: str
    part: Part


@contextmanager
def spark_master(folder: Path) -> Iterator[Master]:
    """Spark's standalone master."""
    port, pages = free_port(), free_port()
    command = [str(PROGRAMS / "spark-class"), "org.apache.spark.deploy.master.Master"]
    command += ["--host", HOST, "--port", str(port), "--webui-port", str(pages)]
    environment = bare_environment(
        {"SPARK_DAEMON_JAVA_OPTS": f"{QUICK_JVM} {master_options(folder)}"}
    )
    with running("spark-master", command, folder, environment) as part:
        wait_until(part, lambda: answers(f"http://{HOST}:{pages}/json/"), "Spark's master")
        yield Master(f"spark://{HOST}:{port}", f"http://{HOST}:{pages}", part)


def master_options(folder: Path) -> str:
    """The master of docker-compose.yaml: no port for REST; started anew, it knows its workers and drivers."""
    remembered = "-Dspark.deploy.recoveryMode=ROCKSDB -Dspark.deploy.recoveryDirectory"
    return f"-Dspark.master.rest.enabled=false {remembered}={folder}/master"


@contextmanager
def spark_workers(
    folder: Path, master: Master, count: int, variables: dict[str, str]
) -> Iterator[list[Part]]:
    """Workers with a core each; these variables are all that they know of the storage."""
    command = [str(PROGRAMS / "spark-class"), "org.apache.spark.deploy.worker.Worker"]
    command += ["--host", HOST, "--cores", "1", "--memory", "2g", "--webui-port", "0"]
    with ExitStack() as parts:
        workers = []
        for number in range(1, count + 1):
            work = ["--work-dir", str(folder / f"work-{number}"), master.address]
            name = f"spark-worker-{number}"
            part = running(name, [*command, *work], folder, bare_environment(variables))
            workers.append(parts.enter_context(part))
        wait_until(workers[-1], lambda: alive_workers(master) == count, "Spark's workers")
        yield workers


def alive_workers(master: Master) -> int:
    """How many workers a master has."""
    return int(httpx.get(f"{master.pages}/json/").json()["aliveworkers"])


@contextmanager
def lineage_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Keeps the events of OpenLineage; yields its address and the events."""
    events: list[dict[str, Any]] = []

    class Keeper(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802  (the standard library's name)
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            events.append(told)
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer((HOST, 0), Keeper) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://{HOST}:{server.server_port}", events
        server.shutdown()


def bare_python(folder: Path) -> Path:
    """A Python with the packages of ours, but not with Sightline, which travels with each job."""
    venv.create(folder / "bare")
    (packages,) = (folder / "bare").glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bare" / "bin" / "python"


def bare_environment(variables: dict[str, str]) -> dict[str, str]:
    """What a process on another machine would have of ours: nothing but these variables."""
    names = ("HOME", "LANG", "JAVA_HOME", "TMPDIR")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    path = os.pathsep.join([str(PROGRAMS), os.environ.get("PATH", os.defpath)])
    return {**kept, "PATH": path, **DAEMON, **variables}


def postgres_programs() -> Path:
    """The folder of Debian's newest Postgres, or of the one on the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: int(one.parent.name))
    found = shutil.which("initdb")
    return debian[-1] if debian or not found else Path(found).parent


def missing_part(jars: Path) -> str | None:
    """What the tests of a cluster lack on this machine, or None."""
    if not (Path("/usr/lib/postgresql").exists() or shutil.which("initdb")):
        return "there is no Postgres on this machine"
    if not any(jars.glob("hadoop-aws-*.jar")):
        return f"Maven has not put Spark's jars into {jars} ('make jars' tells why)"
    return None


def run_as(user: str, folder: str, command: list[str]) -> None:
    """Run a program to its end."""
    done = subprocess.run(
        command, user=user, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def give_to(user: str, *paths: str) -> None:
    """Let a user own files."""
    known = pwd.getpwnam(user)
    for path in paths:
        os.chown(path, known.pw_uid, known.pw_gid)


def connected(told: str) -> bool:
    """Whether a database answers."""
    try:
        psycopg.connect(told, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def answers(address: str) -> bool:
    """Whether a web server answers, whatever it says."""
    try:
        httpx.get(address, timeout=5)
    except httpx.HTTPError:
        return False
    return True
