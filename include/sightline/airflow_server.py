"""A local Airflow that runs: its record on disk, and whether all its parts live."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from sightline import airflow_processes
from sightline.airflow_environment import HOST, airflow_places
from sightline.airflow_processes import Part
from sightline.errors import AirflowUnavailable
from sightline.settings import Settings

WORD = re.compile(r"\w{2}")
# What SQLAlchemy adds below an error: the statement with its parameters, and where to read on.
ADDED = re.compile(r"(\n\[SQL: .*?)?\n\(Background on this error at: [^\n]*", re.DOTALL)


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


def settings_of(settings: Settings) -> dict[str, str]:
    """What a server's tasks are started with, and every user of it must have the same of."""
    return {
        "SIGHTLINE_HOME": str(settings.home),
        "SIGHTLINE_STORAGE": settings.storage,
        "SIGHTLINE_DATASETS": str(settings.datasets),
        "SIGHTLINE_DAGS": str(airflow_places(settings).dags),
        "SIGHTLINE_SPARK_MASTER": settings.spark_master,
        "SIGHTLINE_LINEAGE_URL": settings.lineage_url,
    }


def find_server(settings: Settings) -> Server | None:
    """The running server, or None; what is left of one that broke is cleared away."""
    server = _read_record(settings)
    if server is None or (server.parts and broken_part(settings, server) is None):
        return server
    stop_server(settings, server)
    return None


def is_recorded(settings: Settings, server: Server) -> bool:
    """Whether a server has not been taken down, though it may have broken."""
    recorded = _read_record(settings)
    return recorded is not None and recorded.mark == server.mark


def stop_server(settings: Settings, server: Server) -> None:
    """End a server's processes and forget it."""
    airflow_processes.stop(server.parts.values(), server.mark)
    _record(settings).unlink(missing_ok=True)


def record_server(settings: Settings, server: Server) -> Server:
    """Write a server's record, whole or not at all."""
    beside = _record(settings).with_suffix(".new")
    beside.write_text(json.dumps(asdict(server), indent=2))
    beside.replace(_record(settings))
    return server


def broken_part(settings: Settings, server: Server) -> str | None:
    """A sentence on the first part that has ended, or None while all run."""
    for name, part in server.parts.items():
        if not part.is_alive():
            path = log_path(settings, name)
            return f"The local Airflow's {name} has ended ({last_line(path)}); its log is {path}."
    return None


def refuse_other_settings(settings: Settings, server: Server) -> None:
    """A server that was started for other folders would write to them."""
    for name, value in settings_of(settings).items():
        running = server.settings.get(name, "")
        if running != value:
            raise AirflowUnavailable(
                f"The local Airflow that is running has {name} {running or 'unset'}, but this "
                f"command has {value or 'none'}; stop it with 'make down' first."
            )


def log_path(settings: Settings, name: str) -> Path:
    """Where a part of the server logs."""
    return airflow_places(settings).home / f"{name}.log"


def fresh_log(settings: Settings, name: str) -> Path:
    """Where a part that starts now shall log; what ended the one before can still be read beside it."""
    path = log_path(settings, name)
    if path.exists():
        path.replace(path.with_suffix(".before.log"))
    return path


def last_line(path: Path) -> str:
    """The last line of a log that says something: no rule or box, no SQL, none that goes on from another."""
    text = path.read_text(errors="replace") if path.exists() else ""
    lines = reversed(ADDED.sub("", text).split("\n"))
    telling = (line for line in lines if WORD.search(line) and not line[0].isspace())
    return next((line.strip()[:300] for line in telling), "no output")


def _read_record(settings: Settings) -> Server | None:
    try:
        record = json.loads(_record(settings).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    parts = {name: Part(**part) for name, part in record.pop("parts").items()}
    return Server(**record, parts=parts)


def _record(settings: Settings) -> Path:
    return airflow_places(settings).home / "server.json"
