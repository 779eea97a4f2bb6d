"""Each evaluated model as a run of MLflow, where MLFLOW_TRACKING_URI names a tracking server.

A model is one run, found again by its version, so a task that runs twice leaves one. Tracking never fails
a training: what goes wrong with the server is one line of the log.
"""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any

import httpx

from sightline import __version__, models
from sightline.catalog import Catalog

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0  # for one answer
MOST_PARAMETERS, MOST_METRICS, MOST_CHARACTERS = 100, 500, 500  # of one request; of a value
SECRET = re.compile(r"secret|password|passwd|token|credential|api_?key|options", re.IGNORECASE)
Entry = dict[str, Any]


class TrackingError(Exception):
    """The server has refused or broken off; caught in this module."""


def track(catalog: Catalog, version: str) -> None:
    """Send an evaluated model's settings, metrics and course of training, if a server is configured."""
    model = models.read_model(catalog, version)
    assert model is not None  # it has just been evaluated
    _attempt(lambda server: _send_model(server, catalog.dataset, model))


def note_champion(catalog: Catalog, version: str) -> None:
    """Mark a model's run as that of a champion, if a server is configured."""

    def mark(server: "Server") -> None:
        run_id = server.find_run(server.experiment_of(catalog.dataset), catalog.dataset, version)
        if run_id:
            tag = {"key": "sightline.champion", "value": "true"}
            server.call("runs/set-tag", run_id=run_id, **tag)

    _attempt(mark)


class Server:
    """The few calls of MLflow's REST API that are needed."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def call(self, endpoint: str, /, **body: Any) -> Entry:
        """POST to an endpoint; TrackingError where it does not agree."""
        return self._answer(self._http.post(f"api/2.0/mlflow/{endpoint}", json=body))

    def experiment_of(self, dataset: str) -> str:
        """The id of the dataset's experiment, made where there is none."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"sightline-{dataset}"
        path = "api/2.0/mlflow/experiments/get-by-name"
        found = self._http.get(path, params={"experiment_name": name})
        if found.status_code == httpx.codes.NOT_FOUND:
            return str(self.call("experiments/create", name=name)["experiment_id"])
        return str(self._answer(found)["experiment"]["experiment_id"])

    def find_run(self, experiment: str, dataset: str, version: str) -> str | None:
        """The id of a model's run, or None."""
        which = {"sightline.dataset": dataset, "sightline.version": version}
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in which.items())
        found = self.call("runs/search", experiment_ids=[experiment], filter=wanted, max_results=1)
        return str(found["runs"][0]["info"]["run_id"]) if found.get("runs") else None

    def _answer(self, response: httpx.Response) -> Entry:
        if response.status_code != httpx.codes.OK:
            raise TrackingError(f"it answered {response.status_code}")
        answer = response.json()
        if not isinstance(answer, dict):
            raise TrackingError("its answer is no object")
        return answer


def _attempt(work: Callable[[Server], None]) -> None:
    """Do something with the configured server, and say in a line where that fails."""
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        return
    shown = without_secrets(address)
    try:
        with _client(address) as http:
            work(Server(http))
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        TrackingError,
        ValueError,
        LookupError,
        TypeError,
    ) as error:
        because = error if isinstance(error, TrackingError) else type(error).__name__
        log.warning("MLflow at %s was told nothing of this model: %s", shown, because)


@contextmanager
def _client(address: str) -> Iterator[httpx.Client]:
    if not address.startswith(("http://", "https://")):
        raise TrackingError("MLFLOW_TRACKING_URI names no server, such as http://127.0.0.1:5000")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    login = (name, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if name else None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    options: dict[str, Any] = {"auth": login} if login and not token else {}
    with httpx.Client(
        base_url=address, timeout=TIMEOUT_SECONDS, headers=headers, **options
    ) as http:
        yield http


def _send_model(server: Server, dataset: str, model: Entry) -> None:
    """Times are the model's own, so that a second sending repeats what is there."""
    made_at = int(datetime.fromisoformat(model["created_at"]).timestamp() * 1000)
    experiment = server.experiment_of(dataset)
    run_id = server.find_run(experiment, dataset, model["version"])
    if run_id is None:
        tags = [{"key": key, "value": value} for key, value in _tags(dataset, model).items()]
        made = server.call(
            "runs/create",
            experiment_id=experiment,
            run_name=model["version"],
            start_time=made_at,
            tags=tags,
        )
        run_id = str(made["run"]["info"]["run_id"])
    settings = [{"key": key, "value": value} for key, value in parameters(model).items()]
    for some in _in_parts(settings, MOST_PARAMETERS):
        server.call("runs/log-batch", run_id=run_id, params=some)
    for some in _in_parts(_metrics(model, made_at), MOST_METRICS):
        server.call("runs/log-batch", run_id=run_id, metrics=some)
    server.call("runs/update", run_id=run_id, status="FINISHED", end_time=made_at)


def parameters(model: Entry) -> dict[str, str]:
    """The dataset file's keys with dots, and what was chosen; nothing that could be a secret."""
    chosen = {"chosen": (model.get("head") or {}).get("parameters", {}), "rows": model["rows"]}
    return dict(_flat("", {**model["spec"], **chosen}))


def without_secrets(text: str) -> str:
    """A text without what an address may carry: a login, a query with its signature."""
    if "://" not in text:
        return text
    return re.sub(r"(?<=://)[^/?#]*@", "", re.split("[?#]", text)[0])


def _flat(prefix: str, values: Any) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if SECRET.search(str(key)) or value is None:
            continue
        if isinstance(value, dict):
            yield from _flat(f"{name}.", value)
        else:
            yield _key(name), _plain(value)[:MOST_CHARACTERS]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps([without_secrets(one) if isinstance(one, str) else one for one in value])
    return without_secrets(str(value))


def _key(name: str) -> str:
    """MLflow takes few characters in a name."""
    return re.sub(r"[^\w./ -]", "_", name)[:250]


def _tags(dataset: str, model: Entry) -> dict[str, str]:
    versions = {f"sightline.table.{name}": str(n) for name, n in model["tables"].items()}
    return {
        "sightline.dataset": dataset,
        "sightline.version": model["version"],
        "sightline.kind": model["kind"],
        "sightline.backbone": model["backbone_id"],
        "sightline.code": __version__,
        **versions,
    }


def _metrics(model: Entry, made_at: int) -> list[Entry]:
    """The model's metrics, and of a fine-tuning one point an epoch."""
    history = (model.get("fine_tuning") or {}).get("history", [])
    values = [(name, value, 0) for name, value in model["metrics"].items()]
    values += [
        (f"epoch.{name}", value, epoch["number"])
        for epoch in history
        for name, value in epoch.items()
        if name != "number"
    ]
    return [
        {"key": _key(name), "value": value, "timestamp": made_at, "step": step}
        for name, value, step in values
        if math.isfinite(value)
    ]


def _in_parts(entries: list[Entry], most: int) -> Iterator[list[Entry]]:
    left = iter(entries)
    while some := list(islice(left, most)):
        yield some
