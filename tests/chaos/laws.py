"""What must be true of a dataset after whatever has happened to it."""

import re
from collections import Counter

from sightline import delta, leftovers, maintenance, models, storage, tables, traces
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.tables import Table
from tests import accuracies


def check_rows(catalog: Catalog) -> None:
    """Every listed image once, held or rejected; one embedding, one split each; one prediction a model."""
    keys = (
        (catalog.manifest, "uri"), (catalog.images, "image_id"), (catalog.images, "uri"),
        (catalog.rejects, "uri"), (catalog.features, "backbone_id", "image_id"),
        (catalog.splits, "image_id"), (catalog.predictions, "model_version", "image_id"),
        (catalog.metrics, "model_version", "split", "name", "label"),
    )  # fmt: skip
    for table, *columns in keys:
        counts = Counter(_values(table, *columns))
        assert [key for key, count in counts.items() if count > 1] == [], table.name
    listed, held, rejected = (
        {uri for (uri,) in _values(table, "uri")}
        for table in (catalog.manifest, catalog.images, catalog.rejects)
    )
    assert held & rejected == set()
    assert listed == held | rejected
    known = {image_id for (image_id,) in _values(catalog.images, "image_id")}
    assert {image_id for (image_id,) in _values(catalog.features, "image_id")} == known


def _values(table: Table, *columns: str) -> list[tuple[object, ...]]:
    """The rows of the newest version, of some columns."""
    batches = tables.read_batches(table, list(columns))
    return [
        row for batch in batches for row in zip(*(one.to_pylist() for one in batch), strict=True)
    ]


def check_champion(catalog: Catalog) -> None:
    """The champion is whole: described, judged, predicted, reported."""
    champion = models.require_champion(catalog)
    version = champion["version"]
    assert models.load_classifier(catalog, champion)
    accuracies.assert_at_least(champion["metrics"]["accuracy"], champion["rows"]["test"], 0.5)
    assert tables.count_rows(catalog.predictions, partition=version) > 0
    assert storage.exists(storage.join(catalog.reports, f"{version}.html"))
    assert storage.exists(storage.join(catalog.reports, "latest.html"))


def check_no_orphans(spec: DatasetSpec, catalog: Catalog) -> None:
    """After maintenance nothing is left that no version of a table counts, nothing half-written."""
    maintenance.maintain(spec, catalog, at_once=True)
    for table in catalog.tables:
        assert storage.is_local(table.url) or storage.folder_markers(table.url) == {}
        counted = _ever_counted(table)
        for path in storage.files_below(table.url):
            if not path.startswith((f"{delta.LOG}/", delta.ERASED)):
                assert leftovers.subject_of(path) in counted, (table.name, path)
        for name in storage.list_names(storage.join(table.url, delta.LOG)):
            assert re.fullmatch(r"\d{20}(\.checkpoint.*\.parquet|\.json)|_last_checkpoint", name), (
                name
            )
    assert storage.list_names(catalog.staging) == []
    left = list(storage.files_below(catalog.root))
    assert [path for path in left if traces.HALF_WRITTEN.fullmatch(path.rsplit("/", 1)[-1])] == []
    assert [path for path in left if "/_temporary/" in path] == []  # where Spark writes first


def _ever_counted(table: Table) -> set[str]:
    """By file_name the files of all versions of a table."""
    newest = tables.current_version(table)
    versions = range(0 if newest is None else newest + 1)
    return {tables.file_name(url) for one in versions for url in tables.surviving_urls(table, one)}
