"""The local Airflow: the parts of `airflow standalone`, started, watched and stopped one by one.

Not by `airflow standalone` itself: that opens two log servers on every address of the machine, leaves
its parts running on SIGTERM, and costs one more interpreter and ten seconds. A part listens on
127.0.0.1 or nowhere.

Whoever uses the server holds a shared lock; the last one out stops it, unless `sightline up` asked to
keep it. The processes are found by session and by a mark in their environment, so none is left.
"""

import fcntl
import importlib.metadata
import json
import logging
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import httpx

from sightline import airflow_environment, airflow_processes
from sightline.airflow_environment import HOST, airflow_places
from sightline.airflow_processes import Part
from sightline.errors import AirflowUnavailable
from sightline.settings import Settings

log = logging.getLogger(__name__)

PARTS = {  # name: arguments of its `airflow` command
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
}
TRIGGERER = {"triggerer": ["triggerer", "--skip-serve-logs"]}  # none of our own tasks defers
READY_SECONDS = 240


@dataclass(frozen=True)
class Server:
    """A running local Airflow, as its record on disk tells."""

    port: int
    mark: str
    started_at: float  # seconds since 1970
    keep: bool  # stays when nobody uses it
    settings: dict[str, str]  # what its tasks were started with
    parts: dict[str, Part]

    @property
    def address(self) -> str:
        """Where its UI and its API are."""
        return f"http://{HOST}:{self.port}"


@contextmanager
def use_server(settings: Settings) -> Iterator[Server]:
    """The running server, or a new one; the last user stops it, unless someone keeps it."""
    with _locked(settings, "users.lock", fcntl.LOCK_SH) as users:
        with _lock(settings):
            server = _find(settings) or _start(settings, keep=False)
            _refuse_other_settings(settings, server)
        try:
            yield server
        finally:
            with _lock(settings):
                _stop_if_unused(settings, users)


@contextmanager
def keep_server(settings: Settings) -> Iterator[Server]:
    """The running server, or a new one, that stays up until this ends, whoever uses it."""
    with _lock(settings):
        server = _find(settings) or _start(settings, keep=True)
        _refuse_other_settings(settings, server)
        server = _write_record(settings, replace(server, keep=True))
    try:
        yield server
    finally:
        take_down(settings)


def running_server(settings: Settings) -> Server | None:
    """The running server, or None; what is left of one that broke is cleared away."""
    with _lock(settings):
        return _find(settings)


def take_down(settings: Settings) -> bool:
    """Stop the running server with all its processes, its tasks' included; False where none runs."""
    with _lock(settings):
        server = _find(settings)
        if server is not None:
            _stop(settings, server)
        return server is not None


def broken_part(settings: Settings, server: Server) -> str | None:
    """A sentence on the first part that has ended, or None while all run."""
    for name, part in server.parts.items():
        if not part.is_alive():
            path = _log_path(settings, name)
            return f"The local Airflow's {name} has ended ({_last_line(path)}); its log is {path}."
    return None


def wait_for_end(settings: Settings, server: Server) -> str | None:
    """Wait until a server has ended: None when someone took it down, a sentence when it broke."""
    while (broken := broken_part(settings, server)) is None:
        time.sleep(0.5)
    with _lock(settings):  # whoever takes it down holds this until the record is gone
        return broken if _record(settings).exists() else None


def migrate_database(settings: Settings) -> None:
    """Make or upgrade Airflow's database; nothing happens where it is up to date."""
    home = airflow_places(settings).home
    version = importlib.metadata.version("apache-airflow-core")
    migrated, database = home / "migrated", home / "airflow.db"
    if database.exists() and migrated.exists() and migrated.read_text() == version:
        return
    airflow_environment.prepare_home(settings)
    environment = airflow_environment.airflow_environment(settings, port=8080)
    fresh = home / "airflow.new.db"  # becomes the database when it is whole
    if not database.exists():
        fresh.unlink(missing_ok=True)
        environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{fresh}"
    _run_to_end(settings, ["db", "migrate"], environment)
    if not database.exists():
        fresh.rename(database)
    migrated.write_text(version)


def _find(settings: Settings) -> Server | None:
    try:
        record = json.loads(_record(settings).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    parts = {name: Part(**part) for name, part in record.pop("parts").items()}
    server = Server(**record, parts=parts)
    if parts and all(part.is_alive() for part in parts.values()):
        return server
    _stop(settings, server)  # what is left of one that broke
    return None


def _stop(settings: Settings, server: Server) -> None:
    airflow_processes.stop(server.parts.values(), server.mark)
    _record(settings).unlink(missing_ok=True)


def _start(settings: Settings, keep: bool) -> Server:
    airflow_environment.prepare_home(settings)
    migrate_database(settings)
    port, claim = airflow_processes.claim_port()
    environment = airflow_environment.airflow_environment(settings, port)
    server = Server(port, secrets.token_hex(8), time.time(), keep, _identity(settings), {})
    environment[airflow_processes.MARK] = server.mark
    try:
        for name, arguments in {**PARTS, **(TRIGGERER if keep else {})}.items():
            child = _spawn(settings, name, arguments, environment, claim)
            server.parts[name] = Part.of(child.pid)
            _write_record(settings, server)
        _wait_until_ready(settings, server)
    except BaseException:  # also a signal: nothing may be left of a server that is not ready
        _stop(settings, server)
        raise
    finally:
        os.close(claim)  # the api-server holds its own copy
    return server


def _spawn(
    settings: Settings, name: str, arguments: list[str], environment: dict[str, str], claim: int
) -> "subprocess.Popen[bytes]":
    with _log_path(settings, name).open("wb") as output:
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
    path = _log_path(settings, "-".join(arguments))
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
            f"'airflow {' '.join(arguments)}' failed ({_last_line(path)}); its log is {path}."
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


def _stop_if_unused(settings: Settings, users: IO[bytes]) -> None:
    server = _find(settings)
    if server is None or server.keep:
        return
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # someone else is at work with it, and will stop it
    _stop(settings, server)


def _refuse_other_settings(settings: Settings, server: Server) -> None:
    for name, value in _identity(settings).items():
        if server.settings[name] != value:
            raise AirflowUnavailable(
                f"The local Airflow that is running has {name} {server.settings[name]}, but this "
                f"command has {value}; stop it with 'make down' first."
            )


def _identity(settings: Settings) -> dict[str, str]:
    return {
        "SIGHTLINE_HOME": str(settings.home),
        "SIGHTLINE_STORAGE": settings.storage,
        "SIGHTLINE_DATASETS": str(settings.datasets),
        "SIGHTLINE_DAGS": str(airflow_places(settings).dags),
    }


def _lock(settings: Settings) -> AbstractContextManager[IO[bytes]]:
    """Held by whoever starts, stops or looks for a server."""
    return _locked(settings, "server.lock", fcntl.LOCK_EX)


@contextmanager
def _locked(settings: Settings, name: str, kind: int) -> Iterator[IO[bytes]]:
    home = airflow_places(settings).home
    home.mkdir(parents=True, exist_ok=True)
    with (home / name).open("ab") as stream:
        fcntl.flock(stream, kind)
        yield stream


def _write_record(settings: Settings, server: Server) -> Server:
    beside = _record(settings).with_suffix(".new")
    beside.write_text(json.dumps(asdict(server), indent=2))
    beside.replace(_record(settings))
    return server


def _record(settings: Settings) -> Path:
    return airflow_places(settings).home / "server.json"


def _log_path(settings: Settings, name: str) -> Path:
    return airflow_places(settings).home / f"{name}.log"


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "no output")


def _airflow() -> str:
    return str(Path(sys.executable).parent / "airflow")
