"""What each task of each run read, wrote, counted and took: a small JSON record a task.

The report's timings, `sightline status` and the lineage events are made from these records. A retry
writes its task's record again. A try that fails leaves what it had noted apart, for the lineage alone.
Which is the newest is noted as it comes about: a clock that was wrong for a day would tell it wrongly.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sightline import storage, tables
from sightline.catalog import Catalog
from sightline.errors import SightlineError, TrainingError
from sightline.tables import Table, Writer

RUN = "run"  # beside the tasks' newest records: no task has this name


@dataclass(frozen=True)
class TaskRun:
    """Which task of which Airflow run is at work, and on which slice of the dataset."""

    dag_id: str
    run_id: str
    task: str
    partition: str

    @property
    def writer(self) -> Writer:
        """The identity under which this task commits."""
        return Writer(f"{self.task}:{self.partition}", f"{self.dag_id}/{self.run_id}")


@dataclass
class Record:
    """One task's record."""

    task: str
    dag_id: str
    run_id: str
    partition: str
    started_at: str
    seconds: float = 0.0
    counts: dict[str, Any] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)  # what a validation has found

    def read(self, *read: Table, version: int | None = None) -> None:
        """Note tables as inputs, at a version (default: the present one)."""
        self.inputs += [describe(table, version) for table in read]

    def wrote(self, *written: Table, rows: int | None = None) -> None:
        """Note tables as outputs, at their present version; `rows` are those that this task wrote."""
        self.outputs += [{**describe(table), "written_rows": rows} for table in written]

    def read_from(self, url: str) -> None:
        """Note where a source's images come from."""
        columns = [["listing", "text"], ["content", "binary"]]
        self.inputs.append({"name": "source", "url": url, "columns": columns, "version": None})

    def read_model(self, url: str, version: str) -> None:
        """Note a model as an input; the url is that of all models, or of the champion."""
        self.inputs.append(describe_model(url, version))

    def wrote_model(self, url: str, version: str) -> None:
        """Note a model as an output."""
        self.outputs.append(describe_model(url, version))


def describe(table: Table, version: int | None = None) -> dict[str, Any]:
    """A table as the records name it: name, url, version, columns and size."""
    columns = [[column.name, str(column.type)] for column in table.schema]
    named = {"name": table.name, "url": table.url, "columns": columns}
    opened = tables.open_table(table, version)
    if opened is None:
        return {**named, "version": None, "rows": 0, "bytes": 0, "files": 0}
    files = pa.table(opened.get_add_actions(flatten=True))  # of the log; no data file is read
    rows, size_bytes = (pc.sum(files[name]).as_py() or 0 for name in ("num_records", "size_bytes"))
    size = {"rows": int(rows), "bytes": int(size_bytes), "files": len(files)}
    return {**named, "version": opened.version(), **size}


def describe_model(url: str, version: str) -> dict[str, Any]:
    """A model as the records name it."""
    columns = [["weights", "safetensors"], ["description", "json"]]
    return {"name": "models", "url": url, "columns": columns, "version": version}


@contextmanager
def recording(catalog: Catalog, task: TaskRun) -> Iterator[Record]:
    """Time a task's work and write its record when it ends well."""
    started = time.monotonic()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = Record(task.task, task.dag_id, task.run_id, task.partition, now)
    if not storage.exists(catalog.run(task.dag_id, task.run_id)):
        storage.write_json(catalog.newest(task.dag_id, RUN), {"run_id": task.run_id})
    storage.remove_tree(failure_url(catalog, task))  # of an earlier try
    try:
        yield record
    except Exception as error:
        record.findings = getattr(error, "findings", [])
        with suppress(SightlineError, OSError):  # what failed comes first
            is_final = isinstance(error, SightlineError) and not error.may_pass
            refused = str(error) if is_final else None
            storage.write_json(failure_url(catalog, task), {**asdict(record), "refused": refused})
        raise
    record.seconds = round(time.monotonic() - started, 2)
    for url in (record_url(catalog, task), catalog.newest(task.dag_id, task.task)):
        storage.write_json(url, asdict(record))


def failure_url(catalog: Catalog, task: TaskRun) -> str:
    """Where lies what a task had noted when its last try failed; a killed one leaves nothing."""
    folder = catalog.run(task.dag_id, task.run_id)
    return storage.join(folder, "failed", f"{task.task}.json")


def read_failure(catalog: Catalog, task: TaskRun) -> dict[str, Any] | None:
    """What a task had noted when its last try failed, or None."""
    record: dict[str, Any] | None = storage.read_json(failure_url(catalog, task))
    return record


def record_url(catalog: Catalog, task: TaskRun) -> str:
    """Where a task's record lies."""
    return storage.join(catalog.run(task.dag_id, task.run_id), f"{task.task}.json")


def read_record(catalog: Catalog, task: TaskRun) -> dict[str, Any] | None:
    """A task's record, or None when it has not ended well yet."""
    record: dict[str, Any] | None = storage.read_json(record_url(catalog, task))
    return record


def read_run(catalog: Catalog, dag_id: str, run_id: str) -> list[dict[str, Any]]:
    """The records of one run in the order in which its tasks began."""
    folder = catalog.run(dag_id, run_id)
    names = [name for name in storage.list_names(folder) if name.endswith(".json")]
    records = [storage.read_json(storage.join(folder, name)) for name in names]
    return sorted(records, key=lambda record: str(record["started_at"]))


def last_run(catalog: Catalog, dag_id: str) -> list[dict[str, Any]]:
    """The records of the DAG's run that began last; empty when there is none."""
    newest = storage.read_json(catalog.newest(dag_id, RUN))
    records = read_run(catalog, dag_id, newest["run_id"]) if newest else []
    if records:
        return records
    runs = [  # of before that was noted, or the newest has ended no task yet
        read_run(catalog, dag_id, run_id)
        for run_id in storage.list_names(storage.join(catalog.runs, dag_id))
    ]
    return max(filter(None, runs), key=lambda records: str(records[0]["started_at"]), default=[])


def all_records(
    catalog: Catalog, dag_id: str, task: str, run_id: str | None = None
) -> list[dict[str, Any]]:
    """A task's records of every run that has one, or of one run."""
    run_ids = storage.list_names(storage.join(catalog.runs, dag_id)) if run_id is None else [run_id]
    records = [read_record(catalog, TaskRun(dag_id, one, task, "")) for one in run_ids]
    return [record for record in records if record is not None]


def last_record(
    catalog: Catalog, dag_id: str, task: str, run_id: str | None = None
) -> dict[str, Any]:
    """A task's record of one run, or of the newest run that has one; TrainingError when none has."""
    found = find_last_record(catalog, dag_id, task, run_id)
    if found is None:
        raise TrainingError(f"No run of {dag_id} has finished task {task} yet; run it first.")
    return found


def find_last_record(
    catalog: Catalog, dag_id: str, task: str, run_id: str | None = None
) -> dict[str, Any] | None:
    """As `last_record`, or None when no run has one."""
    if run_id is None:
        newest: dict[str, Any] | None = storage.read_json(catalog.newest(dag_id, task))
        if newest is not None:
            return newest
    found = all_records(catalog, dag_id, task, run_id)
    return max(found, key=lambda record: str(record["started_at"]), default=None)


def task_from_environment(task: str) -> TaskRun:
    """The task that a Spark job works for, as the DAG's operator told it through the environment."""
    return TaskRun(
        dag_id=os.environ.get("SIGHTLINE_DAG_ID", "by_hand"),
        run_id=os.environ.get("SIGHTLINE_RUN_ID", "by_hand"),
        task=task,
        partition=os.environ.get("SIGHTLINE_PARTITION", "all"),
    )
