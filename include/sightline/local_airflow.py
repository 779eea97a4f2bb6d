"""The local Airflow: the parts of `airflow standalone`, started, watched and stopped one by one.

Not by `airflow standalone` itself: that opens two log servers on every address of the machine, leaves
its parts running on SIGTERM, and costs one more interpreter and ten seconds. A part listens on
127.0.0.1 or nowhere.

Whoever uses the server holds a shared lock; the last one out stops it, unless `sightline up` asked to
keep it. The processes are found by session and by a mark in their environment, so none is left.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import IO

from sightline.airflow_environment import airflow_places
from sightline.airflow_server import (
    Server,
    broken_part,
    find_server,
    is_recorded,
    record_server,
    refuse_other_settings,
    stop_server,
)
from sightline.airflow_start import start_server
from sightline.settings import Settings


@contextmanager
def use_server(settings: Settings) -> Iterator[Server]:
    """The running server, or a new one; the last user stops it, unless someone keeps it."""
    with _locked(settings, "users.lock", fcntl.LOCK_SH) as users:
        with _lock(settings):
            server = find_server(settings) or start_server(settings, keep=False)
            refuse_other_settings(settings, server)
        try:
            yield server
        finally:
            with _lock(settings):
                _stop_if_unused(settings, users)


@contextmanager
def keep_server(settings: Settings) -> Iterator[Server]:
    """The running server, or a new one, that stays up until this ends, whoever uses it."""
    with _lock(settings):
        server = find_server(settings) or start_server(settings, keep=True)
        refuse_other_settings(settings, server)
        server = record_server(settings, replace(server, keep=True))
    try:
        yield server
    finally:
        with _lock(settings):
            if is_recorded(settings, server):
                stop_server(settings, server)


def running_server(settings: Settings) -> Server | None:
    """The running server, or None; what is left of one that broke is cleared away."""
    with _lock(settings):
        return find_server(settings)


def take_down(settings: Settings) -> bool:
    """Stop the running server with all its processes, its tasks' included; False where none runs."""
    with _lock(settings):
        server = find_server(settings)
        if server is not None:
            stop_server(settings, server)
        return server is not None


def wait_for_end(settings: Settings, server: Server) -> str | None:
    """Wait until a server has ended: None when someone took it down, a sentence when it broke."""
    while (broken := broken_part(settings, server)) is None:
        time.sleep(0.5)
    with _lock(settings):  # whoever takes it down holds this until the record is gone
        return broken if is_recorded(settings, server) else None


def _stop_if_unused(settings: Settings, users: IO[bytes]) -> None:
    server = find_server(settings)
    if server is None or server.keep:
        return
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # someone else is at work with it, and will stop it
    stop_server(settings, server)


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
