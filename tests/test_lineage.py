"""Lineage: tables as OpenLineage datasets, with version, columns and rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.serde import Serde

from sightline import ledger
from sightline.lineage import datasets
from tests.conftest import catalog_of, made_up_image_row, make_task, store_rows, write_dataset


def serialised(record: dict[str, Any]) -> dict[str, Any]:
    """An event with these datasets, as the client would send it."""
    inputs, outputs = datasets(record)
    run = Run("01234567-89ab-7def-8123-456789abcdef")
    event = RunEvent(
        eventType=RunState.COMPLETE,
        eventTime="2026-11-05T00:00:00+00:00",
        run=run,
        job=Job("sightline", "ingest_photos.featurize"),
        inputs=inputs,
        outputs=outputs,
        producer="https://example.org/sightline",
    )
    found: dict[str, Any] = json.loads(Serde.to_json(event))
    return found


@pytest.fixture
def record(own_places: Path) -> dict[str, Any]:
    """The record of a task that read a table of three images and wrote one of two rejects."""
    spec = write_dataset(own_places, "photos", "source: {type: folder, path: photos}\n")
    catalog = catalog_of(spec)
    store_rows(catalog.images, [made_up_image_row(number) for number in range(3)])
    task, _ = make_task("featurize")
    with ledger.recording(catalog, task) as made:
        made.read(catalog.images, catalog.splits)
        made.wrote(catalog.images)
    kept = ledger.read_record(catalog, task)
    assert kept is not None
    return kept


def test_tables_carry_name_version_columns_and_rows(
    record: dict[str, Any], own_places: Path
) -> None:
    event = serialised(record)
    images, splits = event["inputs"]
    assert images["namespace"] == "file"
    assert images["name"] == str(own_places / "data" / "photos" / "images")
    facets = images["facets"]
    assert facets["version"]["datasetVersion"] == "1"
    fields = {field["name"]: field["type"] for field in facets["schema"]["fields"]}
    assert fields["image_id"] == "string"
    assert fields["content"] == "binary"
    assert facets["schema"]["_schemaURL"].startswith("https://openlineage.io/spec/facets/")
    output = event["outputs"][0]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert output["facets"] == facets
    assert "version" not in splits["facets"]  # nobody has written it yet
    assert "non-serializable" not in json.dumps(event)


def test_an_object_store_is_named_by_its_bucket(record: dict[str, Any]) -> None:
    table = {**record["inputs"][0], "url": "s3://photos-bucket/nightly/photos/images"}
    dataset = serialised({"inputs": [table], "outputs": []})["inputs"][0]
    assert dataset["namespace"] == "s3://photos-bucket"
    assert dataset["name"] == "nightly/photos/images"


def test_a_task_that_touched_no_table_has_no_datasets() -> None:
    assert datasets({"inputs": [], "outputs": []}) == ([], [])
