"""A cluster's parts as processes: started, started again when they end, and ended with their block."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 120
HOST = "127.0.0.1"


@dataclass
class Part:
    """A process of a cluster, and how it is started."""

    name: str
    start: Callable[[], "subprocess.Popen[bytes]"]
    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        """The id of the process as it is now."""
        return self.process.pid


@contextmanager
def running(
    name: str,
    command: list[str],
    folder: Path,
    environment: dict[str, str] | None = None,
    user: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[Part]:
    """A process that logs into <folder>/<name>.log, ended with the block."""

    def start() -> "subprocess.Popen[bytes]":
        with (folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder, user=user,
                start_new_session=True,
            )  # fmt: skip

    part = Part(name, start, start())
    try:
        yield part
    finally:
        part.process.send_signal(stop)
        try:
            part.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(part.pid, signal.SIGKILL)
            part.process.wait()


@contextmanager
def kept_up(parts: list[Part]) -> Iterator[None]:
    """Start a part again whenever it has ended, as compose's `restart:` does, until the block ends."""

    def watch(ended: threading.Event) -> None:
        while not ended.wait(1):
            for part in parts:
                if part.process.poll() is not None:
                    part.process = part.start()

    with meanwhile(watch):
        yield


@contextmanager
def meanwhile(watch: Callable[[threading.Event], None]) -> Iterator[None]:
    """Let a function look on beside the block, which ends once the event that it is given is set."""
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(ended,))
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def wait_until(part: Part, is_ready: Callable[[], bool], what: str) -> None:
    """Wait until a part is ready."""
    deadline = time.monotonic() + READY_SECONDS
    while not is_ready():
        assert part.process.poll() is None, f"{what} has ended with {part.process.returncode}"
        assert time.monotonic() < deadline, f"{what} is not ready after {READY_SECONDS} s"
        time.sleep(0.1)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
