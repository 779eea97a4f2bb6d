"""docker-compose.yaml as processes of this machine: the same commands, variables and health checks, with
hosts, ports and folders replaced, and nothing else.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

HOME = Path(__file__).parents[1]
OUR_IMAGE = "sightline:latest"
HOST = "127.0.0.1"
PROGRAMS = Path(sys.executable).parent
DEADLINE_SECONDS = 180


def read_services(secrets: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The services by name, variables put in as compose does."""
    text = (HOME / "docker-compose.yaml").read_text()
    services: dict[str, dict[str, Any]] = interpolated(yaml.safe_load(text), secrets)["services"]
    return services


def interpolated(value: Any, variables: dict[str, str]) -> Any:
    """${NAME}, ${NAME:-default} and ${NAME:?message} replaced in every text; KeyError with the message."""
    if isinstance(value, dict):
        return {key: interpolated(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one, variables) for one in value]
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if kind == ":-":
            return rest
        raise KeyError(f"{name}: {rest}")

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", replace, value)


def image_environment() -> dict[str, str]:
    """The variables that the Dockerfile sets."""
    text = (HOME / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("ENV ")]
    return dict(pair.split("=", 1) for line in lines for pair in line.removeprefix("ENV ").split())


def free_port() -> int:
    """A port whose double for gRPC, 10,000 higher, is free too."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind((HOST, 0))
            port = int(one.getsockname()[1])
            if port > 55_000:
                continue
            try:
                other.bind((HOST, port + 10_000))
            except OSError:
                continue
            return port


@dataclass
class World:
    """Where the services' folders lie on this machine, and which port stands for which."""

    root: Path
    services: dict[str, dict[str, Any]]
    ports: dict[tuple[str, str], int] = field(default_factory=dict)

    def port(self, service: str, port: str) -> int:
        """This machine's port for a service's."""
        return self.ports.setdefault((service, port), free_port())

    def here(self, service: str, text: str) -> str:
        """A text of a service with hosts, ports and folders of this machine."""
        names = "|".join(self.services)

        def address(found: re.Match[str]) -> str:
            host = service if found[1] == HOST else found[1]
            return f"{HOST}:{self.port(host, found[2])}"

        text = re.sub(rf"(?<![\w.-])({names}|127\.0\.0\.1):(\d+)", address, text)
        text = re.sub(rf"=({names}|0\.0\.0\.0)$", f"={HOST}", text)
        text = re.sub(r"port=(\d+)$", lambda found: f"port={self.port(service, found[1])}", text)
        for inside, outside in self._folders(service).items():
            text = re.sub(rf"(?<![\w.]){inside}(?=/|$|:)", str(outside), text)
        return text

    def _folders(self, service: str) -> dict[str, Path]:
        return {
            "/opt/sightline": HOME,
            "/opt/venv/bin": PROGRAMS,
            "/var/lib/sightline/spark": self.root / service,
            "/var/lib/sightline": self.root / "sightline",
            "/var/lib/postgresql/data": self.root / "postgres",
            "/data": self.root / "objects",
        }

    def command(self, service: str, words: list[str]) -> list[str]:
        """A command line; the word after --port or --webui-port is a port, the one after --host a host."""
        made = []
        for before, word in zip(["", *words], words, strict=False):
            if before == "--host":
                made.append(HOST)
            elif before.endswith("port") and word.isdigit():
                made.append(str(self.port(service, word)))
            else:
                made.append(self.here(service, word))
        return made

    def start_words(self, service: str) -> list[str]:
        """The whole command line of a service."""
        spec = self.services[service]
        entry = spec.get("entrypoint") or (
            [str(HOME / "deploy" / "entry.sh")] if self.is_ours(service) else []
        )
        return [*entry, *self.command(service, spec.get("command", []))]

    def is_ours(self, service: str) -> bool:
        """Whether a service runs our image."""
        return bool(self.services[service]["image"] == OUR_IMAGE)

    def environment(self, service: str) -> dict[str, str]:
        """The variables of a service, and nothing of this process but where programs are."""
        given = {**(image_environment() if self.is_ours(service) else {})}
        given.pop("PATH", None)
        given |= {
            name: str(value)
            for name, value in self.services[service].get("environment", {}).items()
        }
        made = {
            name: HOST if name.endswith("HOSTNAME") else self.here(service, value)
            for name, value in given.items()
        }
        path = os.pathsep.join([str(PROGRAMS), str(postgres_programs() or ""), os.environ["PATH"]])
        kept = {name: os.environ[name] for name in ("JAVA_HOME", "LANG") if name in os.environ}
        # A container has one address, this machine more than one: Spark is told which.
        return {**kept, **made, "PATH": path, "HOME": str(self.root), "SPARK_LOCAL_IP": HOST}


def postgres_programs() -> Path | None:
    """The folder of Debian's newest Postgres."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


@dataclass
class Service:
    """A running service."""

    name: str
    world: World
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def spec(self) -> dict[str, Any]:
        """Its part of the compose file."""
        return self.world.services[self.name]

    def is_healthy(self) -> bool:
        """What its own health check says, once."""
        kind, *words = self.spec["healthcheck"]["test"]
        assert kind == "CMD"
        done = subprocess.run(
            self.world.command(self.name, words),
            env=self.world.environment(self.name),
            cwd=HOME,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def wait_until_healthy(self) -> None:
        """Wait for the health check; AssertionError with the log's end."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.is_healthy():
            assert self.process.poll() is None, f"{self.name} ended: {self.tail()}"
            assert time.monotonic() < deadline, f"{self.name} is not healthy: {self.tail()}"
            time.sleep(0.5)

    def stop(self) -> tuple[int, list[str]]:
        """Send the service's stop signal; its exit code and the processes that it left behind."""
        session = self.process.pid
        self.process.send_signal(signal.Signals[self.spec.get("stop_signal", "SIGTERM")])
        code = self.process.wait(timeout=_seconds(self.spec["stop_grace_period"]))
        return code, [" ".join(one.cmdline()) for one in in_session(session)]

    def kill(self) -> None:
        """End it with all that it started."""
        for one in in_session(self.process.pid):
            one.kill()
        self.process.wait()

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]


def in_session(session: int) -> list[psutil.Process]:
    """The running processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@contextmanager
def running(world: World, name: str, **options: Any) -> Iterator[Service]:
    """A service, started by its own command; killed at the end where it was not stopped."""
    log = world.root / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            world.start_words(name),
            env=world.environment(name),
            cwd=HOME,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    service = Service(name, world, process, log)
    try:
        yield service
    finally:
        service.kill()


def has_program(name: str) -> bool:
    """Whether a program is among the environment's or the machine's."""
    return (PROGRAMS / name).exists() or shutil.which(name) is not None


def _seconds(text: str) -> int:
    return int(text.removesuffix("s"))
