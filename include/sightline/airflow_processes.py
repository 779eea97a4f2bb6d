"""The processes of the local Airflow: which they are, whether they live, and their end.

A process belongs to a server when it is in the session of one of its parts, or carries the server's mark
in its environment: tasks, Spark's JVMs and their Python workers too, even when their parent is gone.
"""

import fcntl
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from sightline.airflow_environment import HOST

MARK = "SIGHTLINE_AIRFLOW"
FIRST_PORT = 8080


@dataclass(frozen=True)
class Part:
    """A process, told apart from a later one with the same id by the time of its start."""

    pid: int
    created: float  # seconds since 1970

    @classmethod
    def of(cls, pid: int) -> "Part":
        """The process that has this id now."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The process, while it runs."""
        try:
            process = psutil.Process(self.pid)
            if process.create_time() == self.created and _is_running(process):
                return process
        except psutil.NoSuchProcess:
            pass
        return None

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process() is not None


def stop(parts: Iterable[Part], mark: str, patience_seconds: float = 6) -> None:
    """End a server's processes, first asked, then killed; returns when none is left.

    All are asked at once: asked alone, the scheduler would wait for its tasks to finish.
    """
    parts = list(parts)
    _signal(processes_of(parts, mark), signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while left := processes_of(parts, mark):
        if time.monotonic() > deadline:
            _signal(left, signal.SIGKILL)
        time.sleep(0.1)


def processes_of(parts: Iterable[Part], mark: str) -> list[psutil.Process]:
    """Every running process of a server."""
    sessions = {part.pid for part in parts if _owns_session(part)}
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in spared and _belongs(process, sessions, mark)
    ]


def claim_port() -> tuple[int, int]:
    """A free port, and an open lock file that keeps other checkouts from choosing it too.

    8080 where it is free. The lock lasts as long as any process holds the file open.
    """
    port = FIRST_PORT
    while True:
        claim = _claim(port)
        if claim is not None:
            return port, claim
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]


def _claim(port: int) -> int | None:
    path = Path(tempfile.gettempdir()) / f"sightline-port-{port}-{os.getuid()}.lock"
    claim = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(claim)
        return None
    if not _is_free(port):
        os.close(claim)
        return None
    return claim


def _is_free(port: int) -> bool:
    with socket.socket() as listener, socket.socket() as caller:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
        return caller.connect_ex((HOST, port)) != 0


def _owns_session(part: Part) -> bool:
    """Whether the session with the part's id is still its own: an id is not given away while a
    session bears it, so only a process that leads it and began later speaks against it."""
    try:
        return bool(psutil.Process(part.pid).create_time() == part.created)
    except psutil.NoSuchProcess:
        return True


def _belongs(process: psutil.Process, sessions: set[int], mark: str) -> bool:
    try:
        if not _is_running(process):
            return False
        return bool(os.getsid(process.pid) in sessions or process.environ().get(MARK) == mark)
    except (psutil.Error, OSError):  # it has ended meanwhile, or is another user's
        return False


def _is_running(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue  # it has just ended by itself
