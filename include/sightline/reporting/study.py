"""The page of a scaling study: one table, and a line for each batch size against the workers."""

from typing import Any

from sightline import storage, tables
from sightline.catalog import Catalog
from sightline.errors import StorageError
from sightline.reporting import charts
from sightline.reporting.pages import render_page

Rows = list[dict[str, Any]]


def write_study(catalog: Catalog, study: str) -> str:
    """Write the page of a study that is in the table `scaling`; returns its URL.

    StorageError where there is none.
    """
    batches = tables.read_batches(catalog.scaling, catalog.scaling.schema.names, partition=study)
    rows = [row for batch in batches for row in batch.to_pylist()]
    if not rows:
        raise StorageError(
            f"Dataset {catalog.dataset} has no scaling study {study!r}; clear task scaling_study."
        )
    url = storage.join(catalog.reports, f"scaling-{storage.safe_name(study)}.html")
    storage.write_bytes(url, render(catalog.dataset, study, rows).encode())
    return url


def render(dataset: str, study: str, rows: Rows) -> str:
    """The page as HTML."""
    return render_page("study.html.j2", dataset=dataset, study=study, **describe(rows))


def read_studies(catalog: Catalog) -> list[dict[str, Any]]:
    """What `describe` says of each study of a dataset, with its name, the newest one first."""
    by_study: dict[str, Rows] = {}
    for batch in tables.read_batches(catalog.scaling, catalog.scaling.schema.names):
        for row in batch.to_pylist():
            by_study.setdefault(row["study"], []).append(row)
    return [{"study": study, **describe(by_study[study])} for study in sorted(by_study)[::-1]]


def describe(rows: Rows) -> dict[str, Any]:
    """The settings of a study in order, the best ones, and its plots."""
    ordered = sorted(rows, key=lambda row: (row["batch_size"], row["workers"]))
    sizes = sorted({row["batch_size"] for row in rows})
    return {
        "rows": ordered,
        "fastest": max(rows, key=lambda row: row["images_per_second"]),
        "best": max(rows, key=lambda row: row["accuracy"]),
        "has_price": any(row["cost"] for row in rows),
        "plots": [(size, _plot(_of_size(ordered, size))) for size in sizes],
    }


def _of_size(rows: Rows, batch_size: int) -> Rows:
    return [row for row in rows if row["batch_size"] == batch_size]


def _plot(rows: Rows) -> charts.Chart:
    """Speed as a line, and dashed what it would be if each worker did what the fewest did."""
    speed_alone = rows[0]["images_per_second"] / rows[0]["workers"]
    return charts.against(
        [row["workers"] for row in rows],
        [row["images_per_second"] for row in rows],
        [row["workers"] * speed_alone for row in rows],
    )
