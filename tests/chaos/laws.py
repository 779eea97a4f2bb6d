"""What must be true of a dataset after whatever has happened to it."""

import re
from pathlib import Path

from sightline import delta, leftovers, maintenance, models, storage, tables, traces
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.tables import Table


def check_rows(catalog: Catalog) -> None:
    """Every listed image once, held or rejected; one embedding, one split each; one prediction a model."""
    with tables.query(
        manifest=catalog.manifest, images=catalog.images, rejects=catalog.rejects,
        features=catalog.features, splits=catalog.splits, predictions=catalog.predictions,
        metrics=catalog.metrics,
    ) as sql:  # fmt: skip

        def rows(statement: str) -> list[object]:
            return list(sql(statement).to_pylist())

        def repeated(table: str, *columns: str) -> list[object]:
            key = ", ".join(columns)
            return rows(
                f"SELECT {key}, count(*) AS n FROM {table} GROUP BY {key} HAVING count(*) > 1"
            )

        assert repeated("manifest", "uri") == []
        assert repeated("images", "image_id") == []
        assert repeated("images", "uri") == []
        assert repeated("rejects", "uri") == []
        assert repeated("features", "image_id", "backbone_id") == []
        assert repeated("splits", "image_id") == []
        assert repeated("predictions", "model_version", "image_id") == []
        assert repeated("metrics", "model_version", "split", "name", "label") == []
        held = "(SELECT uri FROM images UNION ALL SELECT uri FROM rejects)"
        assert rows(f"SELECT uri FROM {held} GROUP BY uri HAVING count(*) > 1") == []
        assert rows(f"SELECT uri FROM manifest WHERE uri NOT IN (SELECT uri FROM {held})") == []
        assert rows(f"SELECT uri FROM {held} WHERE uri NOT IN (SELECT uri FROM manifest)") == []
        ids = "SELECT image_id FROM images"
        assert rows(f"SELECT image_id FROM features WHERE image_id NOT IN ({ids})") == []
        assert rows(f"{ids} WHERE image_id NOT IN (SELECT image_id FROM features)") == []


def check_champion(catalog: Catalog) -> None:
    """The champion is whole: described, judged, predicted, reported."""
    champion = models.require_champion(catalog)
    version = champion["version"]
    assert models.load_classifier(catalog, champion)
    assert champion["metrics"]["accuracy"] > 0.5
    assert tables.count_rows(catalog.predictions, partition=version) > 0
    assert storage.exists(storage.join(catalog.reports, f"{version}.html"))
    assert storage.exists(storage.join(catalog.reports, "latest.html"))


def check_no_orphans(spec: DatasetSpec, catalog: Catalog) -> None:
    """After maintenance nothing is left that no version of a table counts, nothing half-written."""
    maintenance.maintain(spec, catalog, at_once=True)
    for table in catalog.tables:
        counted = _ever_counted(table)
        for path in storage.files_below(table.url):
            if not path.startswith((f"{delta.LOG}/", delta.ERASED)):
                assert leftovers.subject_of(path) in counted, (table.name, path)
        for name in storage.list_names(storage.join(table.url, delta.LOG)):
            assert re.fullmatch(r"\d{20}(\.checkpoint.*\.parquet|\.json)|_last_checkpoint", name), (
                name
            )
    assert storage.list_names(catalog.staging) == []
    root = Path(catalog.root)
    assert [path for path in root.rglob(".*") if traces.HALF_WRITTEN.fullmatch(path.name)] == []


def _ever_counted(table: Table) -> set[str]:
    """By file_name the files of all versions of a table."""
    newest = tables.current_version(table)
    versions = range(0 if newest is None else newest + 1)
    return {tables.file_name(url) for one in versions for url in tables.surviving_urls(table, one)}
