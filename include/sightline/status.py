"""What is there of a dataset, from its tables, run records and models: the facts of `sightline status`."""

from dataclasses import asdict, dataclass
from typing import Any

from sightline import ledger, models, publishing, storage, tables
from sightline.catalog import Catalog, open_catalog
from sightline.publishing import Succession


@dataclass(frozen=True)
class Champion:
    """The model that serves."""

    version: str
    created_at: str
    backbone_id: str
    metrics: dict[str, float]
    rows: dict[str, int]  # by split


@dataclass(frozen=True)
class ModelRow:
    """A model as `sightline models` lists it."""

    version: str
    kind: str
    created_at: str
    accuracy: float | None  # None before it is evaluated
    standing: str  # champion, was champion, rolled back, refused, rejected, not chosen, or nothing
    note: str  # when and why
    taken_down: int = 0  # images that it was trained on and that were taken down since


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


def list_models(dataset: str) -> list[ModelRow]:
    """The models of a dataset, oldest first."""
    catalog = open_catalog(dataset)
    past = publishing.succession(models.champion_history(catalog))
    versions = models.list_versions(catalog)
    judged = _judged(catalog, versions)
    found = [models.read_model(catalog, version) for version in versions]
    rows = [_model_row(model, past, judged) for model in found if model]
    return sorted(rows, key=lambda row: (row.created_at, row.version))


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


def _judged(catalog: Catalog, versions: list[str]) -> dict[str, tuple[str, str]]:
    """What the gate, or a person, said of each candidate: its standing and why."""
    said: dict[str, tuple[str, str]] = {}
    for version in versions:
        decision = models.read_decision(catalog, version)
        if decision is None:
            continue
        answer = decision["approval"] or {"answer": None}
        said |= {one["version"]: ("not chosen", "") for one in decision["candidates"]}
        if not decision["passed"]:
            said[decision["chosen"]] = ("refused", " ".join(decision["reasons"]))
        elif answer["answer"] == publishing.REJECT:
            said[decision["chosen"]] = ("rejected", f"by {answer['by']} on {answer['at']}")
        else:
            del said[decision["chosen"]]
    return said


def _model_row(
    model: dict[str, Any], past: Succession, judged: dict[str, tuple[str, str]]
) -> ModelRow:
    version = model["version"]
    standing, note = judged.get(version, ("", ""))
    if version in past.withdrawn:
        entry = past.withdrawn[version]
        standing, note = "rolled back", f"by {entry['by']} on {entry['at']}"
        note += f": {entry['reason']}" if entry["reason"] else ""
    elif version in past.line:
        standing, note = "champion" if version == past.line[-1] else "was champion", ""
    if models.is_retired(model):
        note = f"{note}; retired on {model['retired_at'][:10]}".removeprefix("; ")
    return ModelRow(
        version=version,
        kind=model.get("kind", models.HEAD),
        created_at=model.get("created_at", ""),
        accuracy=model["metrics"].get("accuracy"),
        standing=standing,
        note=note,
        taken_down=sum(entry["images"] for entry in model.get("taken_down", [])),
    )
