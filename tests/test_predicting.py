"""Batch prediction: which images are asked about, answers as rows and as a file, run again."""

import csv
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from airflow.sdk.exceptions import AirflowSkipException

from sightline import models, stages, storage, tables, wanted_images
from sightline.catalog import Catalog
from sightline.classifiers import Classifier, LogisticRegression, Scaler
from sightline.config import DatasetSpec
from sightline.errors import ConfigError, TrainingError
from sightline.ledger import Record
from sightline.predicting import answers_url, predict
from sightline.wanted_images import ALL, UNLABELLED, from_text, of_champion
from sightline.work import Work
from tests.conftest import (
    catalog_of,
    made_up_image_row,
    make_task,
    store_partition,
    store_rows,
    write_dataset,
)

LABELS = ["=left", "right"]
# number: x of its embedding, more of its row of the images table; to the right of 0 is right.
IMAGES: dict[int, tuple[float, dict[str, Any]]] = {
    0: (-1.0, {"label": "=left"}),
    1: (1.0, {"label": "right"}),
    2: (-2.0, {"label": None, "split_hint": "predict"}),
    3: (3.0, {"label": None, "split_hint": "predict"}),
    4: (0.5, {"label": None}),
    5: (-0.5, {"label": "right", "partition": "2026-01-02"}),
}


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", "source: {type: folder, path: photos}\n")


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    catalog = catalog_of(spec)
    for partition in ("all", "2026-01-02"):
        rows = [made_up_image_row(n, **more) for n, (_, more) in IMAGES.items()]
        store_rows(catalog.images, [r for r in rows if r["partition"] == partition], partition)
    store_features(catalog, {number: x for number, (x, _) in IMAGES.items()})
    crown(catalog, "v1", "head")
    return catalog


def crown(catalog: Catalog, version: str, kind: str, flip: int = 1) -> None:
    """A champion by hand."""
    head = LogisticRegression(np.array([[-flip, 0.0], [flip, 0.0]]), np.zeros(2))
    classifier = Classifier(LABELS, None, Scaler(np.zeros(2), np.ones(2)), head)
    models.save_classifier(catalog, version, classifier)
    model = {"version": version, "kind": kind, "labels": LABELS, "backbone_id": "made-up"}
    model |= {"head": {"kind": "logistic_regression"}, "metrics": {"accuracy": 0.5}}
    models.write_model(catalog, model)
    models.crown(catalog, version)


def store_features(catalog: Catalog, values: dict[int, float]) -> None:
    rows = [
        {"image_id": f"{number:064x}", "backbone_id": "made-up", "embedding": [x, 0.0]}
        for number, x in values.items()
    ]
    store_rows(catalog.features, rows, "made-up")


def run(catalog: Catalog, images: str = UNLABELLED, partition: str | None = None) -> Record:
    task, record = make_task("predict")
    predict(catalog, task, record, of_champion(catalog, images, partition))
    return record


def answers(catalog: Catalog, version: str = "v1") -> dict[int, str]:
    columns = ["image_id", "predicted"]
    found = [
        row
        for batch in tables.read_batches(catalog.answers, columns, partition=version)
        for row in batch.to_pylist()
    ]
    assert len(found) == len({row["image_id"] for row in found})
    return {int(row["image_id"], 16): row["predicted"] for row in found}


def lines(catalog: Catalog, version: str = "v1") -> list[list[str]]:
    text = storage.read_bytes(answers_url(catalog, version)).decode()
    return list(csv.reader(text.splitlines()))


def test_unlabelled_images_are_answered_and_no_others(catalog: Catalog) -> None:
    record = run(catalog)
    assert answers(catalog) == {2: "=left", 3: "right", 4: "right"}
    assert record.counts["rows"] == 3
    (header, *rest) = lines(catalog)
    assert header == ["uri", "label", "predicted", "probability", "second", "second_probability"]
    by_uri = {row[0]: row[1:] for row in rest}
    share = 1 / (1 + np.exp(-4))  # of scores 2 and -2
    assert by_uri["mem://2"] == ["", "'=left", f"{share:.6f}", "right", f"{1 - share:.6f}"]
    assert set(by_uri) == {"mem://2", "mem://3", "mem://4"}


def test_a_rerun_leaves_the_same_rows_and_lines(catalog: Catalog) -> None:
    run(catalog)
    before = answers(catalog), sorted(lines(catalog))
    run(catalog)
    assert (answers(catalog), sorted(lines(catalog))) == before


def test_a_partition_or_all_images_come_on_request_and_stay(catalog: Catalog) -> None:
    run(catalog, partition="2026-01-02")
    assert set(answers(catalog)) == {2, 3, 4, 5}
    run(catalog)  # exchanges the answers, and keeps the one that was asked for before
    assert set(answers(catalog)) == {2, 3, 4, 5}
    run(catalog, ALL)
    assert set(answers(catalog)) == set(IMAGES)
    assert next(row for row in lines(catalog) if row[0] == "mem://0")[1] == "'=left"


def test_answers_follow_the_champion_and_those_of_the_older_one_stay(catalog: Catalog) -> None:
    run(catalog, partition="2026-01-02")
    crown(catalog, "v2", "head", flip=-1)
    run(catalog)
    assert answers(catalog, "v2") == {2: "right", 3: "=left", 4: "=left"}
    assert answers(catalog, "v1") == {2: "=left", 3: "right", 4: "right", 5: "=left"}


def test_a_network_answers_with_test_time_augmentation_where_it_has_it(catalog: Catalog) -> None:
    crown(catalog, "v1-tuned", "fine_tuned")
    rows = [
        {
            "image_id": f"{number:064x}",
            "model_version": "v1-tuned",
            "probabilities": [0.9, 0.1],
            "augmented": [0.2, 0.8] if number == 3 else None,
        }
        for number in (1, 2, 3)
    ]
    store_partition(catalog.scores, rows, "v1-tuned")
    with pytest.raises(TrainingError, match="1 images of photos have no scores of champion"):
        run(catalog)
    store_partition(catalog.scores, [*rows, {**rows[0], "image_id": f"{4:064x}"}], "v1-tuned")
    run(catalog)
    assert answers(catalog, "v1-tuned") == {2: "=left", 3: "right", 4: "=left"}


def test_images_without_features_are_told_of(catalog: Catalog) -> None:
    store_rows(catalog.images, [made_up_image_row(9, label=None)])
    with pytest.raises(TrainingError, match="1 images of photos have no features of made-up"):
        run(catalog)
    assert not answers(catalog)
    assert not storage.exists(answers_url(catalog, "v1"))  # not half a file
    store_features(catalog, {9: 1.0})
    run(catalog)
    assert answers(catalog)[9] == "right"


def test_images_that_come_during_a_run_are_left_to_the_next(catalog: Catalog) -> None:
    wanted = of_champion(catalog, UNLABELLED, None)
    store_rows(catalog.images, [made_up_image_row(9, label=None)])
    task, record = make_task("predict")
    predict(catalog, task, record, from_text(wanted.as_text()))
    assert set(answers(catalog)) == {2, 3, 4}


def test_an_image_to_predict_that_is_a_copy_is_answered_where_its_bytes_are(
    catalog: Catalog,
) -> None:
    listed = dict.fromkeys(catalog.manifest.schema.names)
    manifest = [{**listed, "uri": "mem://twin", "split_hint": "predict", "partition": "all"}]
    store_partition(catalog.manifest, manifest, "all")
    reject = dict.fromkeys(catalog.rejects.schema.names)
    reject |= {"uri": "mem://twin", "stage": "fetch", "reason": "duplicate", "partition": "all"}
    reject |= {"detail": "same bytes as mem://1", "attempts": 1, "rejected_at": datetime.now(UTC)}
    store_partition(catalog.rejects, [reject], "all")
    run(catalog)
    assert answers(catalog) == {1: "right", 2: "=left", 3: "right", 4: "right"}


def test_what_cannot_be_asked_is_told(catalog: Catalog, own_places: Path) -> None:
    with pytest.raises(ConfigError, match="holds no images of partition '2026-13-01'"):
        of_champion(catalog, UNLABELLED, "2026-13-01")
    other = catalog_of(write_dataset(own_places, "others", "source: {type: digits}\n"))
    with pytest.raises(TrainingError, match="others has no champion; run train_others"):
        of_champion(other, UNLABELLED, None)


def test_wanted_images_are_counted(catalog: Catalog) -> None:
    model = models.read_champion(catalog)
    assert model is not None
    assert wanted_images.count(catalog, model, of_champion(catalog, UNLABELLED, None)) == 3
    assert wanted_images.count(catalog, model, of_champion(catalog, ALL, None)) == 6


@dataclass
class Pulled:
    """A task instance to which another task has handed a text."""

    text: str

    def xcom_pull(self, task_ids: str) -> str:
        return self.text


def work(catalog: Catalog, spec: DatasetSpec, text: str = "", images: str = UNLABELLED) -> Work:
    context: Any = {"params": {"images": images, "partition": ""}, "ti": Pulled(text)}
    return Work(spec, catalog, *make_task("choose_images"), context)


def test_spark_starts_for_a_network_with_images_that_it_has_not_seen(
    catalog: Catalog, spec: DatasetSpec
) -> None:
    text = stages.choose_images(work(catalog, spec))
    assert stages.nothing_to_score(work(catalog, spec, text)) == {"scored": 0}  # of a head
    crown(catalog, "v1-tuned", "fine_tuned")
    text = stages.choose_images(work(catalog, spec))
    assert from_text(text).version == "v1-tuned"
    assert stages.nothing_to_score(work(catalog, spec, text)) is None
    row = {"model_version": "v1-tuned", "probabilities": [0.9, 0.1], "augmented": None}
    scores = [{**row, "image_id": f"{number:064x}"} for number in (2, 3, 4)]
    store_partition(catalog.scores, scores, "v1-tuned")
    assert stages.nothing_to_score(work(catalog, spec, text)) == {"scored": 0}


def test_where_every_image_has_a_label_the_run_is_skipped(
    catalog: Catalog, spec: DatasetSpec
) -> None:
    store_partition(catalog.images, [made_up_image_row(0), made_up_image_row(1)], "all")
    with pytest.raises(AirflowSkipException, match="photos has a label, so there is nothing"):
        stages.choose_images(work(catalog, spec))
    assert from_text(stages.choose_images(work(catalog, spec, images=ALL))).images == ALL
