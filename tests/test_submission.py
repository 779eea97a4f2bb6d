"""Submissions: the sample's form to the byte, every image answered, through a server like Kaggle's."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sightline import ledger, storage
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import ConfigError, SourceError, TrainingError
from sightline.ledger import Record, TaskRun
from sightline.source_config import KaggleSource
from sightline.sources import kaggle
from sightline.sources.access import Access, Credential
from sightline.submission import read_sample, submit
from tests.conftest import catalog_of, made_up_image_row, make_task, store_partition, write_dataset
from tests.servers.kaggle import TOKEN, KaggleServer, kaggle_server

DATASET = """
source:
  type: kaggle
  api: {address}
  competition: sf-dl-car-classification
  folders: {{any: train}}
  labels: train.csv
  unlabelled: test_upload
  submission: sample-submission.csv
"""
ANSWERS = {"0.jpg": "3", "1.jpg": "9", "2.jpg": "0", "3.jpg": "0", "4.jpg": "7"}


@pytest.fixture
def server() -> Iterator[KaggleServer]:
    with kaggle_server() as served:
        yield served


@pytest.fixture
def spec(own_places: Path, server: KaggleServer) -> DatasetSpec:
    return write_dataset(own_places, "cars", DATASET.format(address=server.address))


def ingest(
    spec: DatasetSpec, answers: dict[str, str], rejected: dict[str, str | None] | None = None
) -> Catalog:
    """List the competition for real, and store what an ingest and a prediction would leave. Of `rejected`,
    the value is whose bytes an image copies, or None where it is broken."""
    catalog = catalog_of(spec)
    assert isinstance(spec.source, KaggleSource)
    access = Access(catalog, "1", lambda connection: Credential("", TOKEN))
    listed = [row for rows in kaggle.list_images(spec.source, access) for row in rows]
    with ledger.recording(catalog, TaskRun("ingest_cars", "r1", "list_images", "1")):
        pass
    empty = dict.fromkeys(catalog.manifest.schema.names)
    store_partition(catalog.manifest, [{**empty, **r, "partition": "1"} for r in listed], "1")
    held = {r["uri"]: r for r in listed if name_of(r["uri"]) not in (rejected or {})}
    images = [
        made_up_image_row(n, uri=uri, label=r["label"], split_hint=r["split_hint"], partition="1")
        for n, (uri, r) in enumerate(sorted(held.items()))
    ]
    store_partition(catalog.images, images, "1")
    ids = {name_of(row["uri"]): row["image_id"] for row in images}
    splits = [
        {"image_id": row["image_id"], "group_id": row["phash"], "split": "train"}
        for row in images
        if row["label"]
    ]
    store_partition(catalog.splits, splits, None)
    uris = {name_of(uri): uri for uri in (row["uri"] for row in listed)}
    store_rejects(
        catalog, {uris[n]: other and uris[other] for n, other in (rejected or {}).items()}
    )
    rows = [
        {"image_id": ids[name], "model_version": "v1", "predicted": label,
         "probability": 1.0, "probabilities": [1.0]}
        for name, label in answers.items()
    ]  # fmt: skip
    store_partition(catalog.answers, rows, "v1")
    return catalog


def store_rejects(catalog: Catalog, rejected: dict[str, str | None]) -> None:
    rows: list[dict[str, Any]] = [
        {**dict.fromkeys(catalog.rejects.schema.names), "uri": uri, "stage": "fetch",
         "reason": "duplicate" if other else "corrupt", "detail": f"same bytes as {other}",
         "attempts": 1, "rejected_at": datetime.now(UTC), "partition": "1"}
        for uri, other in rejected.items()
    ]  # fmt: skip
    store_partition(catalog.rejects, rows, "1")


def name_of(uri: str) -> str:
    return uri.rsplit("/", 1)[-1]


def run(spec: DatasetSpec, catalog: Catalog) -> tuple[str, Record]:
    _, record = make_task("submit")
    url = submit(spec, catalog, record, "v1")
    return storage.read_bytes(url).decode(), record


@pytest.mark.parametrize(
    ("sample", "filled"),
    [
        ("Id,Category\r\n3.jpg,5\r\n0.jpg,5\r\n", "Id,Category\r\n3.jpg,0\r\n0.jpg,3\r\n"),
        ("Id,Category\n0.jpg,\n1.jpg,0", "Id,Category\n0.jpg,3\n1.jpg,9"),
        ("\ufeffid,c\n4,0\n", "\ufeffid,c\n4,7\n"),  # without the file's ending
        ('"Id","Category"\n"1.jpg","x"\n', '"Id","Category"\n"1.jpg","9"\n'),
        ("Id,Category\ntest_upload/2.jpg,a\n", "Id,Category\ntest_upload/2.jpg,0\n"),
    ],
)
def test_the_sample_keeps_its_form_to_the_byte(
    spec: DatasetSpec, server: KaggleServer, sample: str, filled: str
) -> None:
    server.competitions["sf-dl-car-classification"]["sample-submission.csv"] = sample.encode()
    written, record = run(spec, ingest(spec, ANSWERS))
    assert written == filled
    assert record.counts["rejected"] == 0


def test_a_broken_image_gets_the_commonest_class_and_a_copy_the_answer_of_its_twin(
    spec: DatasetSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    answers = {n: label for n, label in ANSWERS.items() if n not in ("1.jpg", "4.jpg")}
    # Of ten classes with three images each, one image of class 0 is broken: 1 comes first.
    rejected = {"1.jpg": None, "4.jpg": "0.jpg", "100000.jpg": None}
    written, record = run(spec, ingest(spec, answers, rejected))
    rows = dict(line.split(",") for line in written.split()[1:])
    assert rows == {"0.jpg": "3", "1.jpg": "1", "2.jpg": "0", "3.jpg": "0", "4.jpg": "3"}
    assert record.counts["rejected"] == 1
    assert "1 images were rejected (1.jpg) and get the commonest class, 1" in caplog.text


def test_an_unknown_id_is_refused(spec: DatasetSpec, server: KaggleServer) -> None:
    files = server.competitions["sf-dl-car-classification"]
    files["sample-submission.csv"] += b"5.jpg,0\r\n"
    with pytest.raises(SourceError, match=r"1 images that the source does not list \(5\.jpg\)"):
        run(spec, ingest(spec, ANSWERS))


def test_an_id_of_two_images_is_refused(spec: DatasetSpec) -> None:
    catalog = ingest(spec, ANSWERS)
    empty = dict.fromkeys(catalog.manifest.schema.names)
    twin = {**empty, "uri": "kaggle://other/0.jpg", "split_hint": "predict", "partition": "2"}
    store_partition(catalog.manifest, [twin], "2")
    with pytest.raises(SourceError, match=r"asks for 0\.jpg, which may be kaggle://"):
        run(spec, catalog)


def test_an_image_that_is_held_and_not_answered_is_no_reject(spec: DatasetSpec) -> None:
    answers = {name: label for name, label in ANSWERS.items() if name != "2.jpg"}
    with pytest.raises(TrainingError, match=r"no answer on .*/2\.jpg; run predict_cars again"):
        run(spec, ingest(spec, answers))


@pytest.mark.parametrize("text", ["", "Id,Category\n", "Id,a,b\n1,2,3\n", "Id,Category\n1\n"])
def test_a_sample_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match=r"sample\.csv is no table of an image and its class"):
        read_sample(text, "sample.csv")


def test_an_image_asked_for_twice_is_refused() -> None:
    with pytest.raises(SourceError, match="asks for 1 images twice"):
        read_sample("Id,Category\n1,a\n1,a\n", "sample.csv")


def test_a_class_is_quoted_where_the_table_needs_it() -> None:
    plain, quoted = read_sample('Id,Category\n1,a\n2,"a ""b"""\n', "sample.csv")[1]
    assert plain.filled('car, "red"') == '1,"car, ""red"""\n'
    assert quoted.filled("car") == '2,"car"\n'
    assert replace(plain, ending="").filled("car") == "1,car"


def test_a_sample_that_is_not_there_is_told(spec: DatasetSpec) -> None:
    assert isinstance(spec.source, KaggleSource)
    catalog = ingest(spec, ANSWERS)
    source = spec.source.model_copy(update={"submission": "sample.csv"})
    with pytest.raises(SourceError, match=r"no sample\.csv; correct source\.submission"):
        run(spec.model_copy(update={"source": source}), catalog)


def test_a_submission_needs_a_folder_to_predict(own_places: Path) -> None:
    text = "source: {type: kaggle, competition: c, submission: s.csv}\n"
    with pytest.raises(ConfigError, match="submission needs unlabelled"):
        write_dataset(own_places, "cars", text)
