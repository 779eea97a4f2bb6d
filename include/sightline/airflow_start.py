"""Starting the local Airflow: its database, its parts one by one, and the wait until it is ready."""

import importlib.metadata
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from sightline import airflow_processes
from sightline.airflow_environment import airflow_environment, airflow_places, prepare_home
from sightline.airflow_processes import Part
from sightline.airflow_server import (
    Server,
    broken_part,
    fresh_log,
    last_line,
    log_path,
    record_server,
    settings_of,
    stop_server,
)
from sightline.errors import AirflowUnavailable
from sightline.settings import Settings

PARTS = {  # name: arguments of its `airflow` command
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
}
TRIGGERER = {"triggerer": ["triggerer", "--skip-serve-logs"]}  # none of our own tasks defers
READY_SECONDS = 240


def migrate_database(settings: Settings) -> None:
    """Make or upgrade Airflow's database; nothing happens where it is up to date."""
    if settings.database:
        prepare_home(settings)
        _run_to_end(settings, ["db", "migrate"], airflow_environment(settings, port=8080))
        return
    home = airflow_places(settings).home
    version = importlib.metadata.version("apache-airflow-core")
    migrated, database = home / "migrated", home / "airflow.db"
    if database.exists() and migrated.exists() and migrated.read_text() == version:
        return
    prepare_home(settings)
    environment = airflow_environment(settings, port=8080)
    fresh = home / "airflow.new.db"  # becomes the database when it is whole
    if not database.exists():
        fresh.unlink(missing_ok=True)
        environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{fresh}"
    _run_to_end(settings, ["db", "migrate"], environment)
    if not database.exists():
        fresh.rename(database)
    migrated.write_text(version)


def start_server(settings: Settings, keep: bool) -> Server:
    """Start a server and wait until it serves; `keep`: with all parts, for a person's own DAGs too."""
    prepare_home(settings)
    migrate_database(settings)
    port, claim = airflow_processes.claim_port()
    environment = airflow_environment(settings, port)
    server = Server(port, secrets.token_hex(8), time.time(), keep, settings_of(settings), {})
    environment[airflow_processes.MARK] = server.mark
    try:
        for name, arguments in {**PARTS, **(TRIGGERER if keep else {})}.items():
            child = _spawn(settings, name, arguments, environment, claim)
            server.parts[name] = Part.of(child.pid)
            record_server(settings, server)
        _wait_until_ready(settings, server)
    except BaseException:  # also a signal: nothing may be left of a server that is not ready
        stop_server(settings, server)
        raise
    finally:
        os.close(claim)  # the api-server holds its own copy
    return server


def _spawn(
    settings: Settings, name: str, arguments: list[str], environment: dict[str, str], claim: int
) -> "subprocess.Popen[bytes]":
    with fresh_log(settings, name).open("wb") as output:
        return subprocess.Popen(
            [_airflow(), *arguments],
            env=environment,
            cwd=settings.home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # out of reach of the terminal's Ctrl-C
            pass_fds=(claim,) if name == "api-server" else (),
        )


def _run_to_end(settings: Settings, arguments: list[str], environment: dict[str, str]) -> None:
    path = log_path(settings, "-".join(arguments))
    with path.open("wb") as output:
        child = subprocess.Popen(
            [_airflow(), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = child.wait()
    finally:
        child.kill()
    if code:
        raise AirflowUnavailable(
            f"'airflow {' '.join(arguments)}' failed ({last_line(path)}); its log is {path}."
        )


def _wait_until_ready(settings: Settings, server: Server) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with httpx.Client(base_url=server.address, timeout=30) as client:
        while time.monotonic() < deadline:
            broken = broken_part(settings, server)
            if broken:
                raise AirflowUnavailable(broken)
            if _is_ready(client):
                return
            time.sleep(0.2)
    home = airflow_places(settings).home
    raise AirflowUnavailable(
        f"The local Airflow was not ready after {READY_SECONDS} s; its logs are {home}/*.log."
    )


def _is_ready(client: httpx.Client) -> bool:
    try:
        # The API that tasks talk to is made in 5 s at its first request: now, not in the first task.
        client.get("/execution/health").raise_for_status()
        health: dict[str, dict[str, Any]] = client.get("/api/v2/monitor/health").json()
    except (httpx.HTTPError, ValueError):
        return False
    needed = ("metadatabase", "scheduler", "dag_processor")
    return all(health[name]["status"] == "healthy" for name in needed)


def _airflow() -> str:
    return str(Path(sys.executable).parent / "airflow")
