"""What a report is made from: the model's description, the tables as it saw them, and the runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deltalake import DeltaTable

from sightline import ledger, models, storage, tables
from sightline.catalog import Catalog
from sightline.errors import StorageError
from sightline.reporting.pictures import Gallery
from sightline.tables import Table, literal

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Runs:
    """Which runs a report tells of: the last one of the ingest, and one of the training."""

    ingest_dag_id: str
    train_dag_id: str
    train_run_id: str


@dataclass(frozen=True)
class ReportInput:
    """Everything that a section may look at."""

    catalog: Catalog
    version: str
    plan_version: str  # what the model was made by; other candidates share it
    model: dict[str, Any]  # model.json
    decision: dict[str, Any] | None  # of the gate, or None where it has not decided
    runs: Runs
    sql: Callable[[str], Rows]  # over images, splits, manifest, rejects, issues, predictions, ...
    gallery: Gallery

    @property
    def is_ours(self) -> str:
        """The SQL condition that picks this model's rows of a table."""
        return f"model_version = {literal(self.version)}"

    @property
    def of_test(self) -> str:
        """The SQL condition that picks the metrics of this model's test images."""
        return f"{self.is_ours} AND split = 'test'"

    @property
    def is_fine_tuned(self) -> bool:
        """Whether the model is a network trained on the images, not a head on features."""
        return bool(self.model.get("kind") == models.FINE_TUNED)

    @property
    def at_random(self) -> str:
        """An SQL order of image ids that looks random and is the same for the same seed."""
        return f"md5(concat(image_id, '{int(self.model['seed'])}'))"

    def ingest_records(self) -> Rows:
        """The records of the ingest's last run."""
        return ledger.last_run(self.catalog, self.runs.ingest_dag_id)

    def listing_records(self) -> Rows:
        """The newest record of the listing of each partition, newest partition first."""
        records = ledger.all_records(self.catalog, self.runs.ingest_dag_id, "list_images")
        records.sort(key=lambda record: str(record["started_at"]))
        newest = {record["partition"]: record for record in records}
        return [newest[partition] for partition in sorted(newest, reverse=True)]

    def train_records(self) -> Rows:
        """The records of the training run, as far as it has come."""
        return ledger.read_run(self.catalog, self.runs.train_dag_id, self.runs.train_run_id)


@contextmanager
def open_report(catalog: Catalog, plan_version: str, runs: Runs) -> Iterator[ReportInput]:
    """Open the model that the gate has chosen among a plan's candidates, and the tables, images and
    splits at the versions that it was made of."""
    decision = models.read_decision(catalog, plan_version)
    version = decision["chosen"] if decision else plan_version
    with open_model(catalog, version, plan_version, runs) as report:
        yield report


@contextmanager
def open_model(
    catalog: Catalog, version: str, plan_version: str, runs: Runs
) -> Iterator[ReportInput]:
    """The same for one model of a plan, whatever the gate has decided. StorageError where there is none."""
    decision = models.read_decision(catalog, plan_version)
    url = storage.join(catalog.model(version), "model.json")
    model = storage.read_json(url)
    if model is None:
        raise StorageError(
            f"No model {version!r} of dataset {catalog.dataset}: there is no {url}; train it first."
        )
    used = model["tables"]
    with tables.query(
        images=_at_version(catalog.images, used.get("images")),
        splits=_at_version(catalog.splits, used.get("splits")),
        manifest=catalog.manifest,
        rejects=catalog.rejects,
        issues=catalog.issues,
        predictions=catalog.predictions,
        metrics=catalog.metrics,
        suspicious_labels=catalog.suspicious_labels,
        drift=catalog.drift,
    ) as query:

        def rows(statement: str) -> Rows:
            found: Rows = query(statement).to_pylist()
            return found

        gallery = Gallery(catalog.images, used.get("images"))
        yield ReportInput(catalog, version, plan_version, model, decision, runs, rows, gallery)


def literals(texts: list[str]) -> str:
    """Texts as what stands between the brackets of IN (...)."""
    return ", ".join(literal(text) for text in texts)


def _at_version(table: Table, version: int | None) -> Table | DeltaTable:
    return tables.open_table(table, version) or table
