"""What Sightline asks of the local Airflow over its REST API, in Airflow's own words: DAG, run, task."""

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from graphlib import TopologicalSorter
from typing import Any, Self
from urllib.parse import quote

import httpx

from sightline.airflow_environment import USER
from sightline.errors import AirflowUnavailable

log = logging.getLogger(__name__)

ATTEMPTS = 5  # of a request that may be repeated: SQLite and a busy machine make some of them fail
BACKFILL_RUNS = 4  # at once: their Python tasks side by side, their Spark jobs by the pool
ENDED = ("success", "failed")  # states of a run that change no more


@dataclass(frozen=True)
class Run:
    """A run of a DAG."""

    dag_id: str
    run_id: str
    state: str  # queued, running, success, failed

    @property
    def is_well(self) -> bool:
        """Whether it has ended well."""
        return self.state == "success"


@dataclass(frozen=True)
class Task:
    """A task of a run at its newest try."""

    task_id: str
    state: str | None  # None before it is scheduled
    try_number: int
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def seconds(self) -> float | None:
        """How long the try has taken so far, or None before it started."""
        if self.started_at is None:
            return None
        return max(0.0, ((self.ended_at or datetime.now(UTC)) - self.started_at).total_seconds())


@dataclass(frozen=True)
class LogLine:
    """A line of a task's log; `error` is the type and text of the exception that the line reports."""

    text: str
    level: str
    logger: str = ""
    error: tuple[str, str] | None = None


class AirflowClient:
    """A session with the API, logged in as `admin`."""

    def __init__(self, address: str, password: str, timeout_seconds: float = 60) -> None:
        self.address = address
        self._password = password
        self._attempts = ATTEMPTS
        self._http = httpx.Client(base_url=address, timeout=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def hurry(self, timeout_seconds: float = 10) -> None:
        """Wait less long for answers from here on: a person has pressed Ctrl-C."""
        self._http.timeout = httpx.Timeout(timeout_seconds)
        self._attempts = 2

    def find_dag(self, dag_id: str) -> dict[str, Any] | None:
        """A DAG as Airflow last parsed it, or None when it knows no such DAG."""
        response = self._request("GET", f"/dags/{dag_id}")
        return None if response.status_code == 404 else _json(response)

    def import_errors(self) -> list[str]:
        """The errors of the DAG files, one line a file."""
        errors = _json(self._request("GET", "/importErrors"))["import_errors"]
        return [f"{error['filename']}: {_last_line(error['stack_trace'])}" for error in errors]

    def set_paused(self, dag_id: str, is_paused: bool) -> None:
        """Pause a DAG, or let it run."""
        _json(self._request("PATCH", f"/dags/{dag_id}", json={"is_paused": is_paused}))

    def ensure_pools(self, pools: Mapping[str, int]) -> None:
        """Make the pools that there are none of that name of; a person may have given one more slots."""
        for name, slots in pools.items():
            if self._request("GET", f"/pools/{name}").status_code == 404:
                _json(self._request("POST", "/pools", json={"name": name, "slots": slots}))

    def trigger(self, dag_id: str, partition_key: str | None) -> Run:
        """Start a run of a DAG for a partition, or for all of it.

        The run's name is ours, so that asking may be repeated: two commands at once are too much for SQLite.
        """
        run_id = f"manual__{datetime.now(UTC).isoformat()}_{secrets.token_hex(4)}"
        asked: dict[str, Any] = {"logical_date": None, "partition_key": partition_key, "conf": {}}
        asked["dag_run_id"] = run_id
        response = self._request("POST", f"/dags/{dag_id}/dagRuns", may_repeat=True, json=asked)
        if response.status_code == 409:  # it was made, and the answer lost
            return self.run(dag_id, run_id)
        return _run(_json(response))

    def run(self, dag_id: str, run_id: str) -> Run:
        """A run as it is now."""
        return _run(_json(self._request("GET", f"/dags/{dag_id}/dagRuns/{_quoted(run_id)}")))

    def active_runs(self, dag_id: str) -> list[Run]:
        """The runs of a DAG that are queued or running, the first to be served first."""
        asked: dict[str, Any] = {"state": ["queued", "running"], "order_by": "run_after"}
        response = self._request("GET", f"/dags/{dag_id}/dagRuns", params=asked)
        return [_run(run) for run in _json(response)["dag_runs"]]

    def runs_started_by(self, run: Run, dag_id: str) -> list[Run]:
        """The runs of a DAG that the assets of another run have started; none as long as one is queued."""
        asked = {"source_dag_id": run.dag_id, "source_run_id": run.run_id}
        response = self._request("GET", "/assets/events", params=asked)
        if (
            response.status_code == 500
        ):  # Airflow 3.3 cannot show a started run that is still queued
            return []
        events = _json(response)["asset_events"]
        ids = {
            started["run_id"]
            for event in events
            for started in event["created_dagruns"]
            if started["dag_id"] == dag_id
        }
        return [self.run(dag_id, run_id) for run_id in sorted(ids)]

    def create_backfill(self, dag_id: str, first: date, last: date, again: str) -> int:
        """Start a backfill over days, both included; `again` says which earlier runs of theirs are run
        again: none, failed or completed. Returns its id."""
        asked = {
            "dag_id": dag_id,
            "from_date": f"{first}T00:00:00Z",
            "to_date": f"{last}T23:59:59Z",
            "reprocess_behavior": again,
            "max_active_runs": BACKFILL_RUNS,
        }
        return int(_json(self._request("POST", "/backfills", json=asked))["id"])

    def cancel_backfill(self, backfill_id: int) -> None:
        """Start none of its runs any more."""
        self._request("PUT", f"/backfills/{backfill_id}/cancel")

    def backfilled_runs(self, backfill_id: int) -> list[Run]:
        """The runs of a backfill."""
        backfill = _json(self._request("GET", f"/backfills/{backfill_id}"))
        asked: dict[str, Any] = {"run_type": "backfill", "order_by": "-id", "limit": 100}
        asked |= {"offset": 0, "updated_at_gte": backfill["created_at"]}
        found: list[Run] = []
        while True:
            url = f"/dags/{backfill['dag_id']}/dagRuns"
            page = _json(self._request("GET", url, params=asked))
            found += [_run(run) for run in page["dag_runs"]]
            asked["offset"] += 100
            if len(found) >= page["total_entries"] or not page["dag_runs"]:
                return found

    def set_run_state(self, run: Run, state: str) -> None:
        """End a run as failed (its running tasks are stopped) or as a success."""
        url = f"/dags/{run.dag_id}/dagRuns/{_quoted(run.run_id)}"
        _json(self._request("PATCH", url, json={"state": state}))

    def task_order(self, dag_id: str) -> list[str]:
        """The tasks of a DAG, each after those it waits for."""
        tasks = _json(self._request("GET", f"/dags/{dag_id}/tasks"))["tasks"]
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for task in tasks:
            sorter.add(task["task_id"])
            for after in task["downstream_task_ids"]:
                sorter.add(after, task["task_id"])
        return list(sorter.static_order())

    def tasks(self, run: Run) -> dict[str, Task]:
        """The tasks of a run by their id."""
        url = f"/dags/{run.dag_id}/dagRuns/{_quoted(run.run_id)}/taskInstances"
        found = _json(self._request("GET", url, params={"limit": 100}))["task_instances"]
        return {task["task_id"]: _task(task) for task in found}

    def read_log(
        self, run: Run, task_id: str, try_number: int, token: str | None = None
    ) -> tuple[list[LogLine], str | None]:
        """New lines of a try's log, and the token to go on from; no token comes back at its end."""
        url = f"/dags/{run.dag_id}/dagRuns/{_quoted(run.run_id)}/taskInstances/{task_id}/logs"
        response = self._request(
            "GET",
            f"{url}/{try_number}",
            params={"token": token} if token else {},
            headers={"Accept": "application/json"},
        )
        if response.status_code == 404:  # not begun yet
            return [], token
        found = _json(response)
        return [_log_line(line) for line in found["content"]], found.get("continuation_token")

    def _request(
        self, method: str, path: str, may_repeat: bool = False, **options: Any
    ) -> httpx.Response:
        attempts = self._attempts if may_repeat or method != "POST" else 1
        for attempt in range(1, attempts + 1):
            try:
                response = self._send(method, path, **options)
                if response.status_code < 500 or attempt == attempts:
                    return response
            except httpx.TransportError as error:
                if attempt == attempts:
                    raise AirflowUnavailable(
                        f"The local Airflow at {self.address} does not answer ({error})."
                    ) from error
            time.sleep(0.5 * attempt)
        raise AssertionError("unreachable")

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        if "Authorization" not in self._http.headers:
            self._log_in()
        response = self._http.request(method, f"/api/v2{path}", **options)
        if response.status_code == 401:  # the token lasts a day
            self._log_in()
            response = self._http.request(method, f"/api/v2{path}", **options)
        return response

    def _log_in(self) -> None:
        login = {"username": USER, "password": self._password}
        token = _json(self._http.post("/auth/token", json=login))["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"


def _json(response: httpx.Response) -> Any:
    if response.is_error:
        raise AirflowUnavailable(
            f"The local Airflow refused {response.request.method} {response.request.url.path} "
            f"({response.status_code}): {response.text[:300]}"
        )
    return response.json()


def _run(found: dict[str, Any]) -> Run:
    return Run(found["dag_id"], found["dag_run_id"], found["state"])


def _task(found: dict[str, Any]) -> Task:
    return Task(
        task_id=found["task_id"],
        state=found["state"],
        try_number=found["try_number"],
        started_at=_moment(found["start_date"]),
        ended_at=_moment(found["end_date"]),
    )


def _log_line(found: Any) -> LogLine:
    if isinstance(found, str):
        return LogLine(found, "info")
    details = found.get("error_detail") or []
    return LogLine(
        text=str(found.get("event", "")),
        level=str(found.get("level", "info")),
        logger=str(found.get("logger", "")),
        error=(details[0]["exc_type"], details[0]["exc_value"]) if details else None,
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _quoted(run_id: str) -> str:
    return quote(run_id, safe="")


def _last_line(text: str) -> str:
    return text.strip().split("\n")[-1]
