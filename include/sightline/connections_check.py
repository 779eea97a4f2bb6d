"""Every connection, variable and server that Sightline uses: is it declared, and does it answer?

    python -m sightline.connections_check    in Airflow's environment; `sightline connections` makes it

Nothing is sent but a file of a few bytes into the storage, which is removed again.
"""

import socket
import sys
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from sightline import storage
from sightline.alert_config import VARIABLE, parse_alerts
from sightline.config import DatasetSpec, dataset_files, read_dataset
from sightline.errors import ConfigError
from sightline.settings import Settings, load_settings

State = Literal["ok", "unused", "missing", "wrong"]
TIMEOUT_SECONDS = 5
PORTS = {"http": 80, "https": 443, "smtp": 25, "spark": 7077}


@dataclass(frozen=True)
class Login:
    """What is asked of an Airflow connection; it never prints its password."""

    host: str
    port: int | None
    password: str

    def __repr__(self) -> str:
        return f"Login({self.host!r}, {self.port})"


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    name: str
    state: State
    sentence: str


@dataclass(frozen=True)
class Around:
    """Where to look: Airflow's connections and variables by their names."""

    settings: Settings
    specs: tuple[DatasetSpec, ...]
    connection: Callable[[str], Login | None]
    variable: Callable[[str], str | None]


def check(around: Around) -> list[Finding]:
    """Every finding, in the order of docs/deploy.md."""
    return [
        check_storage(around.settings.storage),
        check_spark(around),
        check_lineage(around.settings.lineage_url),
        *check_sources(around),
        *check_alerts(around),
    ]


def check_storage(root: str) -> Finding:
    """Write, read and remove a file; an object store must also refuse to write one twice, which is what makes
    commits exact.
    """
    url = storage.join(root, f".connections-check-{uuid.uuid4().hex}")
    try:
        storage.write_bytes(url, b"sightline")
        same = storage.read_bytes(url) == b"sightline"
        once = storage.is_local(root) or _is_refused_twice(url)
        storage.remove_tree(url)
    except Exception as error:  # a library of the store may raise anything
        return Finding("storage", "wrong", f"{root}: {type(error).__name__}: {error}")
    if not (same and once):
        return Finding("storage", "wrong", f"{root} has no conditional put; use another store.")
    return Finding("storage", "ok", f"{root} can be written and read")


def _is_refused_twice(url: str) -> bool:
    fs, path = storage.filesystem(url)
    try:
        fs.pipe_file(path, b"again", mode="create")
    except FileExistsError:
        return True
    return False


def check_spark(around: Around) -> Finding:
    """The connection that the Spark tasks use."""
    login = around.connection("spark_default")
    if login is None:
        return Finding("spark_default", "missing", "Airflow's own default asks YARN; declare it.")
    if login.host.startswith("local"):
        return Finding("spark_default", "ok", f"{login.host}: this machine's cores")
    return _answers("spark_default", login.host, login.port)


def check_lineage(url: str) -> Finding:
    """The server that takes OpenLineage's events."""
    if not url:
        return Finding("SIGHTLINE_LINEAGE_URL", "unused", "events go into a file")
    return _answers("SIGHTLINE_LINEAGE_URL", url)


def check_sources(around: Around) -> list[Finding]:
    """The logins that the dataset files name; `sightline check DATASET` tries them."""
    users: dict[str, list[str]] = {"flickr_default": [], "kaggle_default": []}
    for spec in around.specs:
        name = getattr(spec.source, "connection", None)
        if name is not None:
            users.setdefault(name, []).append(spec.name)
    return [_login(around, name, datasets) for name, datasets in users.items()]


def _login(around: Around, name: str, datasets: list[str]) -> Finding:
    by = f"for {', '.join(datasets)}"
    if around.connection(name) is not None:
        return Finding(name, "ok", f"is declared, {by if datasets else 'for no dataset'}")
    if not datasets:
        return Finding(name, "unused", "no dataset asks for it")
    return Finding(name, "missing", f"{by}; set AIRFLOW_CONN_{name.upper()} or add it in the UI")


def check_alerts(around: Around) -> list[Finding]:
    """The variable that says who is told, and the servers that it names."""
    try:
        receivers = parse_alerts(around.variable(VARIABLE))
    except ConfigError as error:
        return [Finding(VARIABLE, "wrong", str(error))]
    if not receivers:
        return [Finding(VARIABLE, "unused", "nobody is told when a run fails or is late")]
    found = [Finding(VARIABLE, "ok", f"{len(receivers)} are told")]
    if any(receiver.email for receiver in receivers):
        found.append(_server(around, "smtp_default", lambda login: (login.host, login.port or 25)))
    for name in dict.fromkeys(one.webhook for one in receivers if one.webhook):
        found.append(_server(around, name, lambda login: (login.password, None)))
    return found


def _server(
    around: Around, name: str, address: Callable[[Login], tuple[str, int | None]]
) -> Finding:
    login = around.connection(name)
    if login is None:
        return Finding(name, "missing", f"set AIRFLOW_CONN_{name.upper()} or add it in the UI")
    return _answers(name, *address(login))


def _answers(name: str, address: str, port: int | None = None) -> Finding:
    """Whether something listens; of an address only host and port are told, for its path may be a secret."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    host, number = parts.hostname or "", port or parts.port or PORTS.get(parts.scheme, 0)
    try:
        socket.create_connection((host, number), TIMEOUT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Finding(name, "wrong", f"{host}:{number} does not answer: {reason}")
    return Finding(name, "ok", f"{host}:{number} answers")


def readable_specs() -> tuple[DatasetSpec, ...]:
    """The datasets whose files can be read; the others' DAGs say what is wrong with them."""
    specs = []
    for path in dataset_files():
        try:
            specs.append(read_dataset(path))
        except ConfigError:
            continue
    return tuple(specs)


def find_connection(name: str) -> Login | None:
    """As Airflow finds it: in the environment, in a secrets backend, in its database. The SDK's own would ask
    a task's supervisor.
    """
    from airflow.models import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        found = Connection.get_connection_from_secrets(name)  # noqa: AIR311
    except AirflowNotFoundException:
        return None
    return Login(found.host or "", found.port, found.password or "")


def find_variable(name: str) -> str | None:
    """As Airflow finds it."""
    from airflow.models import Variable

    value: Any = Variable.get(name, default_var=None)  # noqa: AIR311
    return None if value is None else str(value)


def describe(findings: Iterable[Finding]) -> str:
    """A line each."""
    return "\n".join(f"{one.state:<8}{one.name:<24}{one.sentence}" for one in findings)


def main() -> int:
    """Say everything; 1 where something that is needed is missing or wrong."""
    around = Around(load_settings(), readable_specs(), find_connection, find_variable)
    found = check(around)
    sys.stdout.write(f"{describe(found)}\n")
    return int(any(one.state in ("missing", "wrong") for one in found))


if __name__ == "__main__":
    sys.exit(main())
