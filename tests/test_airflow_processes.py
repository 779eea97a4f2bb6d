"""The local Airflow's environment and processes: nothing of others is touched, nothing of it is left."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sightline import airflow_processes, dataset_run, local_airflow
from sightline.airflow_environment import airflow_environment, prepare_home, read_password
from sightline.airflow_processes import MARK, Part, claim_port
from sightline.airflow_server import (
    Server,
    broken_part,
    find_server,
    fresh_log,
    record_server,
    settings_of,
)
from sightline.errors import AirflowUnavailable
from sightline.settings import Settings, load_settings


@pytest.fixture
def settings(own_places: Path) -> Settings:
    return load_settings()


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start processes in sessions of their own; those that outlive the test are killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str, mark: str = "") -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, MARK: mark},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def make_server(settings: Settings, *parts: subprocess.Popen[bytes], mark: str = "m") -> Server:
    """A server of these processes, as its record tells."""
    named = {str(process.pid): Part.of(process.pid) for process in parts}
    return Server(1, mark, time.time(), False, settings_of(settings), named)


SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
ORPHANING = (  # starts a process in another session, and one that outlives its parent
    "import subprocess, sys, time\n"
    "quiet = {'stdout': subprocess.DEVNULL}\n"
    "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
    "subprocess.Popen(sleep, start_new_session=True, **quiet)\n"
    "subprocess.run(['sh', '-c', 'sleep 600 &'], **quiet)\n"
    "print('up', flush=True); time.sleep(600)\n"
)


def test_what_ended_a_part_is_told_and_kept(
    settings: Settings, child: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = child(SLEEP)
    server = Server(
        1, "m", time.time(), False, settings_of(settings), {"scheduler": Part.of(process.pid)}
    )
    prepare_home(settings)
    log = fresh_log(settings, "scheduler")
    log.write_text(
        "OperationalError: connection refused\n\tIs the server running?\n"
        "[SQL: SELECT 1\nFROM runs]\n[parameters: {'a': 1}]\n"
        "(Background on this error at: https://x)\n"
    )
    assert broken_part(settings, server) is None
    process.kill()
    process.wait()
    assert broken_part(settings, server) == (
        f"The local Airflow's scheduler has ended (OperationalError: connection refused); its log is {log}."
    )
    assert fresh_log(settings, "scheduler") == log
    assert "refused" in log.with_name("scheduler.before.log").read_text()


def test_the_persons_own_airflow_is_left_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://production")
    monkeypatch.setenv("AIRFLOW_HOME", "/home/person/airflow")
    monkeypatch.setenv("SPARK_HOME", "/opt/spark-3")
    monkeypatch.setenv("AIRFLOW_CONN_FLICKR", "their own")
    prepare_home(settings)
    environment = airflow_environment(settings, port=12345)
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("sqlite:///")
    assert environment["AIRFLOW_HOME"] == str(settings.state / "airflow")
    assert "SPARK_HOME" not in environment
    assert environment["AIRFLOW_CONN_FLICKR"] == "their own"  # connections are for the tasks


def test_everything_listens_on_this_machine_only_and_follows_the_port(settings: Settings) -> None:
    prepare_home(settings)
    environment = airflow_environment(settings, port=12345)
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["SPARK_LOCAL_IP"] == "127.0.0.1"
    for name in ("API__BASE_URL", "CORE__EXECUTION_API_SERVER_URL"):
        assert environment[f"AIRFLOW__{name}"].startswith("http://127.0.0.1:12345")


def test_secrets_are_random_kept_and_private(own_places: Path) -> None:
    one = replace(load_settings(), state=own_places / "one")
    two = replace(load_settings(), state=own_places / "two")
    for settings in (one, two):
        prepare_home(settings)
        for name in ("secrets.json", "passwords.json"):
            assert (settings.state / "airflow" / name).stat().st_mode & 0o777 == 0o600
    name = "AIRFLOW__API_AUTH__JWT_SECRET"
    assert airflow_environment(one, 1)[name] != airflow_environment(two, 1)[name]
    kept = (airflow_environment(one, 1)[name], read_password(one))
    prepare_home(one)
    assert (airflow_environment(one, 1)[name], read_password(one)) == kept


def test_two_checkouts_get_ports_of_their_own(tmp_path: Path) -> None:
    first, held = claim_port()
    try:
        second, other = claim_port()  # before anybody listens on the first
        os.close(other)
        assert first != second
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", first))
            listener.listen()
            os.close(held)
            third, held = claim_port()  # no lock any more, but somebody listens
            assert third != first
    finally:
        os.close(held)


def test_stopping_ends_every_process_of_a_session_or_with_the_mark(
    child: Callable[..., subprocess.Popen[bytes]], settings: Settings
) -> None:
    leader = child(ORPHANING, "m")
    server = make_server(settings, leader)
    theirs = airflow_processes.processes_of(server.parts.values(), "m")
    assert len(theirs) == 3  # itself, the one in another session, the orphan
    airflow_processes.stop(server.parts.values(), "m", patience_seconds=0.5)
    assert not any(process.is_running() and process.status() != "zombie" for process in theirs)


def test_a_process_that_ignores_the_request_is_killed(
    child: Callable[..., subprocess.Popen[bytes]], settings: Settings
) -> None:
    stubborn = child(STUBBORN)
    airflow_processes.stop(make_server(settings, stubborn).parts.values(), "m", 0.5)
    assert stubborn.wait(timeout=5) == -signal.SIGKILL


def test_a_stranger_with_the_same_process_id_is_spared(
    child: Callable[..., subprocess.Popen[bytes]],
) -> None:
    stranger = child(SLEEP)
    earlier = Part(stranger.pid, psutil.Process(stranger.pid).create_time() - 100)
    assert not earlier.is_alive()
    airflow_processes.stop([earlier], "m")
    assert stranger.poll() is None


def test_a_record_of_a_server_that_broke_is_cleared_away_with_what_is_left_of_it(
    child: Callable[..., subprocess.Popen[bytes]], settings: Settings
) -> None:
    prepare_home(settings)
    dead, left = child(SLEEP), child(SLEEP)
    record_server(settings, make_server(settings, dead, left))
    assert find_server(settings) is not None
    dead.kill()
    dead.wait()
    assert local_airflow.running_server(settings) is None
    assert left.wait(timeout=5) == -signal.SIGTERM
    assert not (settings.state / "airflow" / "server.json").exists()


def test_a_server_with_other_folders_is_refused_and_left_running(
    child: Callable[..., subprocess.Popen[bytes]], settings: Settings
) -> None:
    prepare_home(settings)
    running = child(SLEEP)
    record_server(settings, make_server(settings, running))
    other = replace(settings, storage="/elsewhere")
    with (
        pytest.raises(AirflowUnavailable, match="SIGHTLINE_STORAGE .*/elsewhere.*make down"),
        local_airflow.use_server(other),
    ):
        pass
    assert running.poll() is None


def test_the_last_user_stops_the_server(
    child: Callable[..., subprocess.Popen[bytes]], settings: Settings
) -> None:
    prepare_home(settings)
    running = child(SLEEP)
    record_server(settings, make_server(settings, running))
    with local_airflow.use_server(settings):
        with local_airflow.use_server(settings):
            pass
        assert running.poll() is None
    assert running.wait(timeout=5) == -signal.SIGTERM


def test_a_dataset_is_run_by_one_command_at_a_time(settings: Settings) -> None:
    with dataset_run.only_run_of(settings, "birds"):
        with (
            pytest.raises(AirflowUnavailable, match="birds is being run"),
            dataset_run.only_run_of(settings, "birds"),
        ):
            pass
        with dataset_run.only_run_of(settings, "cars"):
            pass
