"""What is there of a dataset, from its tables, run records and models: the facts of `sightline status`."""

from dataclasses import asdict, dataclass
from typing import Any

from sightline import ledger, models, storage, tables
from sightline.catalog import Catalog, open_catalog


@dataclass(frozen=True)
class Champion:
    """The model that serves."""

    version: str
    created_at: str
    backbone_id: str
    metrics: dict[str, float]
    rows: dict[str, int]  # by split


@dataclass(frozen=True)
class LastRun:
    """The newest run of a DAG, as far as its tasks have ended well."""

    run_id: str
    started_at: str
    seconds: float  # of work, without the pauses between the tasks
    finished_tasks: list[str]


@dataclass(frozen=True)
class Status:
    """A dataset as it stands."""

    dataset: str
    images: int
    rejects: dict[str, int]  # by reason
    features: int
    featurized_in_last_run: int
    table_versions: dict[str, int | None]
    last_runs: dict[str, LastRun | None]  # of ingest and of train
    champion: Champion | None
    report: str | None

    def as_json(self) -> dict[str, Any]:
        """For `sightline status --json`."""
        by_reason = {"rejects": sum(self.rejects.values()), "rejects_by_reason": self.rejects}
        return {**asdict(self), **by_reason}


def read_status(dataset: str) -> Status:
    """Look at a dataset; one that was never run counts zeros."""
    catalog = open_catalog(dataset)
    ingest = ledger.last_run(catalog, f"ingest_{dataset}")
    train = ledger.last_run(catalog, f"train_{dataset}")
    report = storage.join(catalog.reports, "latest.html")
    return Status(
        dataset=dataset,
        images=tables.count_rows(catalog.images),
        rejects=_count_rejects(catalog),
        features=tables.count_rows(catalog.features),
        featurized_in_last_run=count_featurized(ingest),
        table_versions={table.name: tables.current_version(table) for table in catalog.tables},
        last_runs={"ingest": _last_run(ingest), "train": _last_run(train)},
        champion=_champion(catalog),
        report=report if storage.exists(report) else None,
    )


def count_featurized(records: list[dict[str, Any]]) -> int:
    """How many images an ingest run has featurized, from its records."""
    counts = [record["counts"] for record in records if record["task"] == "featurize"]
    return int(counts[0].get("featurized", 0)) if counts else 0


def _count_rejects(catalog: Catalog) -> dict[str, int]:
    with tables.query(rejects=catalog.rejects) as sql:
        found = sql(
            "SELECT reason, count(*) AS n FROM rejects GROUP BY reason ORDER BY n DESC, reason"
        )
    return {row["reason"]: row["n"] for row in found.to_pylist()}


def _last_run(records: list[dict[str, Any]]) -> LastRun | None:
    if not records:
        return None
    return LastRun(
        run_id=records[0]["run_id"],
        started_at=records[0]["started_at"],
        seconds=round(sum(record["seconds"] for record in records), 1),
        finished_tasks=[record["task"] for record in records],
    )


def _champion(catalog: Catalog) -> Champion | None:
    model = models.read_champion(catalog)
    if model is None:
        return None
    keys = ("version", "created_at", "backbone_id", "metrics", "rows")
    return Champion(**{key: model[key] for key in keys})
