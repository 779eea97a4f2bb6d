"""A run of a DAG, from its records: what each task took, what came in, what was refused or known already."""

import re
from dataclasses import dataclass
from typing import Any

from sightline import ledger, storage
from sightline.catalog import Catalog, open_catalog
from sightline.ledger import TaskRun
from sightline.reporting.runs import RATES, describe_task

OURS = re.compile(r"(ingest|train|predict)_(?P<dataset>[a-z][a-z0-9_]*)")


@dataclass(frozen=True)
class TaskFacts:
    """A task that has ended well, or, with `failed`, one whose last try has not."""

    name: str
    started_at: str
    seconds: float
    images_per_second: float | None
    note: str
    failed: bool = False


@dataclass(frozen=True)
class Written:
    """A table that the run has written to."""

    name: str
    version: int | None
    rows: int | None  # that this run has written


@dataclass(frozen=True)
class Checked:
    """What a validation has found."""

    task: str
    passed: int
    missed: list[str]  # the checks that were not met


@dataclass(frozen=True)
class RunFacts:
    """A run as far as it has come."""

    dag_id: str
    run_id: str
    partition: str
    started_at: str
    seconds: float  # of work, without the pauses between the tasks
    totals: dict[str, int]  # images, rejects, known, featurized, bytes: those that were counted
    images_per_second: float | None  # of the slowest task that counts images
    tasks: list[TaskFacts]
    written: list[Written]
    checks: list[Checked]
    report: str | None  # the file's name


def dataset_of(dag_id: str) -> str | None:
    """The dataset of one of our DAGs, or None of another's."""
    ours = OURS.fullmatch(dag_id)
    return ours["dataset"] if ours else None


def read_run(catalog: Catalog, dag_id: str, run_id: str) -> RunFacts | None:
    """What the records tell of a run, or None where there is none yet."""
    records = ledger.read_run(catalog, dag_id, run_id)
    failures = _read_failures(catalog, dag_id, run_id)
    everything = [*records, *failures]
    if not everything:
        return None
    tasks = [_task(record) for record in records]
    tasks += [_task(record, failed=True) for record in failures]
    rates = [task.images_per_second for task in tasks if task.images_per_second]
    return RunFacts(
        dag_id=dag_id,
        run_id=everything[0]["run_id"],
        partition=everything[0]["partition"],
        started_at=min(record["started_at"] for record in everything),
        seconds=sum(record["seconds"] for record in records),
        totals=_totals({record["task"]: record["counts"] for record in records}),
        images_per_second=min(rates, default=None),
        tasks=sorted(tasks, key=lambda task: task.started_at),
        written=[_written(table) for record in records for table in record["outputs"]],
        checks=[_checked(record) for record in everything if record["findings"]],
        report=_report(records),
    )


def find_report(dag_id: str, run_id: str) -> str | None:
    """The path below the pages of the report that a run has written, or None where it has written none."""
    dataset = dataset_of(dag_id)
    if dataset is None:
        return None
    record = ledger.read_record(open_catalog(dataset), TaskRun(dag_id, run_id, "report", ""))
    name = _report([record] if record else [])
    return f"datasets/{dataset}/reports/{name}" if name else None


def _read_failures(catalog: Catalog, dag_id: str, run_id: str) -> list[dict[str, Any]]:
    folder = storage.join(catalog.run(dag_id, run_id), "failed")
    names = [name for name in storage.list_names(folder) if name.endswith(".json")]
    return [storage.read_json(storage.join(folder, name)) for name in names]


def _task(record: dict[str, Any], failed: bool = False) -> TaskFacts:
    described = describe_task(record)
    return TaskFacts(**described, started_at=record["started_at"], failed=failed)


def _totals(counts: dict[str, dict[str, Any]]) -> dict[str, int]:
    """What the tasks have counted, by what it is."""
    fetched, featurized = counts.get("fetch_images", {}), counts.get("featurize", {})
    named = {
        "images": fetched.get("images"),
        "rejects": fetched.get("rejects"),
        "duplicates": fetched.get("duplicates"),
        "known": fetched.get("held_before"),
        "bytes": fetched.get("bytes"),
        RATES["featurize"]: featurized.get("featurized"),
        "featurized_before": featurized.get("known"),
    }
    return {name: count for name, count in named.items() if count is not None}


def _written(table: dict[str, Any]) -> Written:
    return Written(table["name"], table["version"], table.get("written_rows"))


def _checked(record: dict[str, Any]) -> Checked:
    missed = [finding["because"] for finding in record["findings"] if not finding["success"]]
    return Checked(record["task"], len(record["findings"]) - len(missed), missed)


def _report(records: list[dict[str, Any]]) -> str | None:
    urls = [record["counts"].get("url") for record in records if record["task"] == "report"]
    return str(urls[0]).rsplit("/", 1)[-1] if urls and urls[0] else None
