"""One run of a dataset in the local Airflow: ingest it, wait for the training it starts, watch both.

The flow of `sightline run`. What it sees goes to a display as rows, one a task; where it shows them is
the console's business.
"""

import contextlib
import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sightline.airflow_client import ENDED, AirflowClient, Run, Task
from sightline.airflow_environment import POOLS, airflow_places
from sightline.errors import AirflowUnavailable
from sightline.progress import Report
from sightline.settings import Settings
from sightline.task_log import TaskLog, find_reason, last_words

log = logging.getLogger(__name__)

POLL_SECONDS = 1.5
PARSE_SECONDS = 120  # for a new dataset file to become a DAG
TRAIN_SECONDS = 120  # for the features' change to start the training
WAITS_FOR_ANSWER = "awaiting_input"  # state of a task that has asked a person
FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")  # states of a task


@dataclass(frozen=True)
class Row:
    """A task as it is shown."""

    dag_id: str
    task_id: str
    state: str | None = None
    try_number: int = 0
    seconds: float | None = None
    report: Report | None = None
    note: str = ""


@dataclass(frozen=True)
class Failure:
    """A failed task: what its log gives as the reason, and its last lines."""

    dag_id: str
    task_id: str
    reason: str
    lines: list[str]


@dataclass(frozen=True)
class Outcome:
    """How a run of a dataset ended."""

    ingest: Run
    train: Run | None
    trained: bool  # whether a new model was made
    published: bool  # and serves
    failures: list[Failure]

    @property
    def succeeded(self) -> bool:
        """Whether both DAGs ended well."""
        return bool(self.ingest.is_well and self.train and self.train.is_well)


class Display(Protocol):
    """Shows the tasks while they run."""

    def show(self, rows: list[Row]) -> None:
        """Show the tasks as they are now."""

    def tell(self, text: str) -> None:
        """Say a sentence beside the tasks."""


@contextlib.contextmanager
def only_run_of(settings: Settings, dataset: str) -> Iterator[None]:
    """Hold the dataset for this command: two would switch its DAGs off under each other."""
    home = airflow_places(settings).home
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"run-{dataset}.lock").open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AirflowUnavailable(
                f"Dataset {dataset} is being run by another 'sightline run'; wait for its end."
            ) from None
        yield


class DatasetRun:
    """The ingest and the training of one dataset, from the trigger to the end."""

    def __init__(
        self,
        dataset: str,
        client: AirflowClient,
        display: Display,
        broken: Callable[[], str | None],  # a sentence when the server has broken down
    ) -> None:
        self.ingest_id = f"ingest_{dataset}"
        self.train_id = f"train_{dataset}"
        self._client = client
        self._display = display
        self._broken = broken
        self._order: dict[str, list[str]] = {}
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, dict[str, Task]] = {}
        self._logs: dict[tuple[str, str, int], TaskLog] = {}
        self._asking: set[str] = set()  # runs that were told to wait for an answer

    def execute(self, partition_key: str | None, parsed_since: float) -> Outcome:
        """Run both DAGs; `parsed_since` (seconds since 1970) tells what parse of them is fresh enough."""
        with self.ready(parsed_since):
            ingest = self._client.trigger(self.ingest_id, partition_key)
            with self._stopped_on_error():
                ingest = self._follow(ingest)
                train = self._follow(self._await_train(ingest)) if ingest.is_well else None
        return Outcome(
            ingest, train, self._is_done("gate"), self._is_done("publish"), self._failures()
        )

    @contextlib.contextmanager
    def ready(self, parsed_since: float) -> Iterator[None]:
        """Wait until Airflow knows both DAGs, and let them run within the block."""
        for dag_id in (self.ingest_id, self.train_id):
            self._wait_for_dag(dag_id, parsed_since)
            self._order[dag_id] = self._client.task_order(dag_id)
        self._client.ensure_pools(POOLS)
        with self._unpaused(self.train_id, self.ingest_id):  # the listener before the speaker
            yield

    def check_server(self) -> None:
        """AirflowUnavailable when the server has broken down."""
        broken = self._broken()
        if broken:
            raise AirflowUnavailable(broken)

    def tell_of_question(self, run: Run, tasks: dict[str, Task]) -> None:
        """Say once of a run that it waits for a person's answer, and where to give it."""
        asking = [task for task in tasks.values() if task.state == WAITS_FOR_ANSWER]
        if not asking or run.run_id in self._asking:
            return
        self._asking.add(run.run_id)
        where = f"{self._client.address}/dags/{run.dag_id}/runs/{run.run_id}"
        self._display.tell(
            f"{run.dag_id} waits for your answer at {where}/tasks/{asking[0].task_id}/required_actions "
            "('make up' in another terminal tells the login)."
        )

    def _is_done(self, task_id: str) -> bool:
        """Whether a task of the training has ended well."""
        task = self._tasks.get(self.train_id, {}).get(task_id)
        return bool(task and task.state == "success")

    def _wait_for_dag(self, dag_id: str, parsed_since: float) -> None:
        deadline = time.monotonic() + PARSE_SECONDS
        while time.monotonic() < deadline:
            self.check_server()
            dag = self._client.find_dag(dag_id)
            if dag and not dag["is_stale"] and _parsed_at(dag) >= parsed_since:
                return
            errors = self._client.import_errors()
            if errors:
                raise AirflowUnavailable(f"Airflow cannot read a DAG file: {errors[0]}")
            time.sleep(0.5)
        raise AirflowUnavailable(f"Airflow found no DAG {dag_id} within {PARSE_SECONDS} s.")

    @contextlib.contextmanager
    def _unpaused(self, *dag_ids: str) -> Iterator[None]:
        """Let DAGs run, and pause those again that were: a run by hand switches no schedule on."""
        paused = [dag_id for dag_id in dag_ids if _is_paused(self._client.find_dag(dag_id))]
        for dag_id in paused:
            self._client.set_paused(dag_id, False)
        try:
            yield
        finally:
            for dag_id in paused:
                with contextlib.suppress(AirflowUnavailable):  # it is gone, and told of elsewhere
                    self._client.set_paused(dag_id, True)

    @contextlib.contextmanager
    def _stopped_on_error(self) -> Iterator[None]:
        """On Ctrl-C end the runs as failed, so that no later Airflow takes them up again."""
        try:
            yield
        except BaseException:
            self._client.hurry()
            with contextlib.suppress(AirflowUnavailable):
                for run in self._runs.values():
                    if self._client.run(run.dag_id, run.run_id).state not in ENDED:
                        self._client.set_run_state(run, "failed")
            raise

    def _await_train(self, ingest: Run) -> Run:
        deadline = time.monotonic() + TRAIN_SECONDS
        while time.monotonic() < deadline:
            self.check_server()
            started = self._client.runs_started_by(ingest, self.train_id)
            if started:
                return started[-1]
            if self._client.active_runs(self.train_id):  # ours may be queued behind another
                deadline = time.monotonic() + TRAIN_SECONDS
            time.sleep(0.5)
        raise AirflowUnavailable(
            f"{self.train_id} was not started by {ingest.run_id} within {TRAIN_SECONDS} s; look at "
            f"{self._client.address}/dags/{self.train_id}."
        )

    def _follow(self, run: Run) -> Run:
        self._runs[run.dag_id] = run
        others_told = False
        while True:
            self.check_server()
            tasks = self._tasks[run.dag_id] = self._client.tasks(run)
            self._display.show(self._rows())
            if all(task.state in FINISHED for task in tasks.values()):
                run = self._runs[run.dag_id] = self._client.run(run.dag_id, run.run_id)
                if run.state in ENDED:
                    return run
            if not others_told and all(task.state is None for task in tasks.values()):
                others_told = self._tell_of_others(run)
            self.tell_of_question(run, tasks)
            time.sleep(POLL_SECONDS)

    def _tell_of_others(self, run: Run) -> bool:
        others = [other.run_id for other in self._client.active_runs(run.dag_id)]
        others = [run_id for run_id in others if run_id != run.run_id]
        if others:
            self._display.tell(f"{run.dag_id} has another run under way, {others[0]}.")
        return bool(others)

    def _rows(self) -> list[Row]:
        return [
            self._row(dag_id, self._tasks.get(dag_id, {}).get(task_id), task_id)
            for dag_id, order in self._order.items()
            for task_id in order
        ]

    def _row(self, dag_id: str, task: Task | None, task_id: str) -> Row:
        if task is None or task.state is None:
            return Row(dag_id, task_id)
        report, note = None, ""
        if task.state == "running":
            task_log = self._log(dag_id, task, task.try_number)
            task_log.read_on(self._client)
            report = task_log.report
        if task.state in ("up_for_retry", "failed"):
            note = self._reason(dag_id, task, task.try_number)
        elif task.try_number > 1:
            note = f"try {task.try_number - 1}: {self._reason(dag_id, task, task.try_number - 1)}"
        return Row(dag_id, task_id, task.state, task.try_number, task.seconds, report, note)

    def _log(self, dag_id: str, task: Task, try_number: int) -> TaskLog:
        key = (dag_id, task.task_id, try_number)
        return self._logs.setdefault(key, TaskLog(self._runs[dag_id], task.task_id, try_number))

    def _reason(self, dag_id: str, task: Task, try_number: int) -> str:
        task_log = self._log(dag_id, task, try_number)
        if not task_log.is_whole:
            task_log.read_whole(self._client)
        return find_reason(task_log.lines)

    def _failures(self) -> list[Failure]:
        found = []
        for dag_id, tasks in self._tasks.items():
            for task in tasks.values():
                if task.state == "failed":
                    reason = self._reason(dag_id, task, task.try_number)
                    lines = self._log(dag_id, task, task.try_number).lines
                    found.append(Failure(dag_id, task.task_id, reason, last_words(lines)))
        return found


def _is_paused(dag: dict[str, Any] | None) -> bool:
    return bool(dag and dag["is_paused"])


def _parsed_at(dag: dict[str, Any]) -> float:
    """When Airflow last read a DAG's file, in seconds since 1970."""
    text = dag["last_parsed_time"]
    return datetime.fromisoformat(text).timestamp() if text else 0.0
