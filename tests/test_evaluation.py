"""Evaluation: every candidate on the same test images, each counted once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline import exclusions, models, tables
from sightline.catalog import Catalog
from sightline.classifiers import Classifier, LogisticRegression, Pca, Scaler
from sightline.config import DatasetSpec
from sightline.errors import TrainingError
from sightline.evaluation import evaluate
from sightline.ledger import Record
from sightline.models import Plan
from tests.conftest import catalog_of, make_task, store_embeddings, store_partition, write_dataset

DATASET = "source: {type: folder, path: photos}\nreduce: null\n"


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


LABELS = ["left", "right", "left", "right", "left", "right", "left", "up", None]
SPLITS = ["train"] * 4 + ["test"] * 5
GROUPS: list[str] | None = None  # of near-copies; default: each image is its own
VALUES = [[-1, 0], [1, 0], [-2, 0], [2, 0], [-1, 1], [1, 1], [3, 0], [2, 2], [1, 5]]


MODEL: dict[str, Any] = {
    "head": {"kind": "logistic_regression"},
    "rows": {"train": 4},
    "metrics": {},
}


def trained(
    catalog: Catalog, spec: DatasetSpec, values: Any = VALUES, pca: Pca | None = None
) -> Plan:
    """A model by hand: to the right of 0 is right; without training, so without Spark."""
    plan = store_embeddings(catalog, spec, values, LABELS, SPLITS, GROUPS)
    head = LogisticRegression(np.array([[-1.0, 0], [1.0, 0]]), np.zeros(2))
    classifier = Classifier(["left", "right"], pca, Scaler(np.zeros(2), np.ones(2)), head)
    models.save_classifier(catalog, plan.version, classifier)
    models.write_model(
        catalog,
        {**MODEL, "version": plan.version, "kind": "head", "labels": classifier.labels},
    )
    return plan


def run(spec: DatasetSpec, catalog: Catalog, plan: Plan, run_id: str = "run-1") -> Record:
    task, record = make_task("evaluate", run_id=run_id)
    evaluate(spec, catalog, task, record, plan)
    return record


def stored(table: tables.Table) -> list[dict[str, Any]]:
    batches = tables.read_batches(table, table.schema.names)
    return [row for batch in batches for row in batch.to_pylist()]


def test_each_test_image_has_one_prediction_and_the_model_its_metrics(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    plan = trained(catalog, spec)
    record = run(spec, catalog, plan)
    rows = {int(row["image_id"], 16): row for row in stored(catalog.predictions)}
    assert sorted(rows) == [4, 5, 6, 7, 8]
    assert [rows[number]["predicted"] for number in sorted(rows)] == ["left"] + ["right"] * 4
    assert [rows[number]["label"] for number in sorted(rows)] == LABELS[4:]
    for row in rows.values():
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-6)
        assert max(row["probabilities"]) == row["probability"]
    # Of four labelled ones, one is plainly wrong and one of a class that was not trained.
    assert record.counts == {"rows": 4, "accuracy": 0.5, "unseen": 1}
    model = models.read_model(catalog, plan.version)
    assert model is not None
    assert model["rows"] == {"train": 4, "test": 4, "duplicate_free": 4}
    assert (model["metrics"]["accuracy"], model["metrics"]["train_accuracy"]) == (0.5, 1.0)
    support = {
        row["label"]: row["value"]
        for row in stored(catalog.metrics)
        if row["name"] == "support" and row["split"] == "test"
    }
    assert support == {"left": 2, "right": 1, "up": 1}


def test_an_image_in_conflict_is_not_tested_on_and_a_suspicious_one_is(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    plan = trained(catalog, spec)
    reasons = {f"{4:064x}": "conflict", f"{7:064x}": "conflict", f"{5:064x}": "suspicious"}
    exclusions.write_exclusions(catalog, plan.version, reasons, make_task("audit")[0].writer)
    other = {f"{6:064x}": "conflict"}
    exclusions.write_exclusions(catalog, "another", other, make_task("audit")[0].writer)
    assert run(spec, catalog, plan).counts == {"rows": 2, "accuracy": 0.5, "unseen": 0}
    rows = {int(row["image_id"], 16) for row in stored(catalog.predictions)}
    assert rows == {5, 6, 8}


def test_a_rerun_replaces_predictions_and_metrics(spec: DatasetSpec, catalog: Catalog) -> None:
    plan = trained(catalog, spec)
    run(spec, catalog, plan)
    before, numbers = stored(catalog.predictions), numbers_of(catalog, plan.version)
    rows = len(stored(catalog.metrics))
    run(spec, catalog, plan, "run-2")
    assert sorted(stored(catalog.predictions), key=str) == sorted(before, key=str)
    assert numbers_of(catalog, plan.version) == pytest.approx(numbers)
    assert (len(before), len(stored(catalog.metrics))) == (5, rows)


def test_the_pca_comes_before_the_head(spec: DatasetSpec, catalog: Catalog) -> None:
    reduced = spec.model_copy(update={"reduce": DatasetSpec.model_fields["reduce"].default})
    turned = np.roll(np.float32(VALUES), 1, axis=1) + 10  # the PCA turns and moves it back
    pca = Pca(np.full(2, 10.0), np.array([[0, 1.0], [1.0, 0]]), np.array([0.6, 0.4]))
    plan = trained(catalog, reduced, turned, pca)
    assert run(reduced, catalog, plan).counts == {"rows": 4, "accuracy": 0.5, "unseen": 1}


def test_a_model_that_is_not_trained_is_refused(spec: DatasetSpec, catalog: Catalog) -> None:
    plan = store_embeddings(catalog, spec, VALUES, LABELS, SPLITS)
    with pytest.raises(TrainingError, match=f"{plan.version} of photos is not trained"):
        run(spec, catalog, plan)


def test_a_test_split_without_labelled_images_is_refused(
    spec: DatasetSpec, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "LABELS", [*LABELS[:4], *[None] * 5])
    with pytest.raises(TrainingError, match="photos has no labelled test image that model"):
        run(spec, catalog, trained(catalog, spec))


TUNED = DATASET.replace("reduce: null", "train: {folds: 2}\nfine_tune: {}")


def numbers_of(catalog: Catalog, version: str, split: str = "test") -> dict[Any, float]:
    """The metrics of a model on a split, by name and label; overall ones by their name alone."""
    return {
        (row["name"], row["label"]) if row["label"] else row["name"]: row["value"]
        for row in stored(catalog.metrics)
        if row["model_version"] == version and row["split"] == split
    }


def scored(
    catalog: Catalog, plan: Plan, probabilities: Any, augmented: Any = None, first: int = 4
) -> str:
    """A fine-tuned network by hand: its scores of the images from a number on."""
    version = f"{plan.version}-tuned"
    rows = [
        {
            "image_id": f"{first + number:064x}",
            "model_version": version,
            "probabilities": shares,
            "augmented": augmented and augmented[number],
        }
        for number, shares in enumerate(probabilities)
    ]
    store_partition(catalog.scores, rows, version)
    model = {**MODEL, "version": version, "kind": "fine_tuned", "labels": ["right", "left"]}
    models.write_model(catalog, {**model, "head": None, "reduction": None})
    return version


# In the network's own order of classes, right before left: right, right, right, left, right.
SHARES = [[0.6, 0.4], [0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.9, 0.1]]
TURNED = [
    [0.3, 0.7],
    [0.9, 0.1],
    [0.4, 0.6],
    [0.2, 0.8],
    [0.9, 0.1],
]  # left, right, left, left, right


@pytest.fixture
def both(own_places: Path) -> DatasetSpec:
    """A dataset that trains a head and fine-tunes a network."""
    return write_dataset(own_places, "photos", f"{TUNED}reduce: null\n")


def test_a_network_is_judged_beside_the_head_on_the_same_images(both: DatasetSpec) -> None:
    catalog = catalog_of(both)
    plan = trained(catalog, both)
    version = scored(catalog, plan, SHARES)
    record = run(both, catalog, plan)
    predicted: dict[str, list[str]] = {plan.version: [], version: []}
    for row in sorted(stored(catalog.predictions), key=lambda row: row["image_id"]):
        predicted[row["model_version"]].append(row["predicted"])
    assert predicted[plan.version] == ["left", "right", "right", "right", "right"]
    assert predicted[version] == ["right", "right", "right", "left", "right"]
    model = models.read_model(catalog, version)
    assert model is not None
    assert model["metrics"]["accuracy"] == 0.25
    assert model["rows"] == {"train": 4, "test": 4, "duplicate_free": 4}
    assert "train_accuracy" not in model["metrics"]  # it has no scores of its train images
    assert "plain_accuracy" not in model["metrics"]
    assert numbers_of(catalog, version, "test_plain") == {}
    assert record.counts == {"rows": 4, "accuracy": 0.5, "unseen": 1}


def test_with_test_time_augmentation_that_is_what_counts(both: DatasetSpec) -> None:
    catalog = catalog_of(both)
    plan = trained(catalog, both)
    version = scored(catalog, plan, SHARES, TURNED)
    run(both, catalog, plan)
    model = models.read_model(catalog, version)
    assert model is not None
    assert (model["metrics"]["accuracy"], model["metrics"]["plain_accuracy"]) == (0.75, 0.25)
    assert numbers_of(catalog, version)["accuracy"] == 0.75
    assert numbers_of(catalog, version, "test_plain")["accuracy"] == 0.25
    kept = [row for row in stored(catalog.predictions) if row["model_version"] == version]
    assert sorted(round(row["probability"], 6) for row in kept) == [0.6, 0.7, 0.8, 0.9, 0.9]


def test_an_image_without_an_augmented_score_counts_with_its_plain_one(both: DatasetSpec) -> None:
    catalog = catalog_of(both)
    plan = trained(catalog, both)
    version = scored(catalog, plan, SHARES, [None, *TURNED[1:]])
    run(both, catalog, plan)
    assert numbers_of(catalog, version)["accuracy"] == 0.5
    assert numbers_of(catalog, version, "test_plain")["accuracy"] == 0.25


def test_a_network_alone_needs_no_features(own_places: Path) -> None:
    spec = write_dataset(own_places, "photos", DATASET + "train: null\nfine_tune: {}\n")
    catalog = catalog_of(spec)
    plan = store_embeddings(catalog, spec, VALUES, LABELS, SPLITS)
    scored(catalog, plan, SHARES)
    assert run(spec, catalog, plan).counts["accuracy"] == 0.25


def test_a_network_that_is_not_trained_is_refused(both: DatasetSpec) -> None:
    catalog = catalog_of(both)
    plan = trained(catalog, both)
    with pytest.raises(TrainingError, match=f"{plan.version}-tuned of photos is not trained"):
        run(both, catalog, plan)


def test_the_duplicate_free_test_set_has_one_image_a_group_and_none_of_a_train_group(
    spec: DatasetSpec, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The head is right on images 4 and 5, wrong on 6 and 8; 7 has no label, so 8 stands for their group.
    groups = ["a", "b", "c", "d", "b", "e", "e", "f", "f"]
    monkeypatch.setitem(globals(), "GROUPS", groups)
    monkeypatch.setitem(globals(), "LABELS", [*LABELS[:7], None, "up"])
    plan = trained(catalog, spec)
    run(spec, catalog, plan)
    model = models.read_model(catalog, plan.version)
    assert model is not None
    assert model["rows"]["duplicate_free"] == 2  # 5 and 8: 4 is a copy of 1, which is in train
    assert model["metrics"]["duplicate_free_accuracy"] == 0.5
    numbers = numbers_of(catalog, plan.version, "test_duplicate_free")
    assert (numbers["accuracy"], numbers["support", "right"], numbers["support", "up"]) == (
        0.5,
        1,
        1,
    )


def test_where_every_test_image_is_a_copy_there_is_no_duplicate_free_score(
    spec: DatasetSpec, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "GROUPS", ["a"] * 9)
    plan = trained(catalog, spec)
    run(spec, catalog, plan)
    model = models.read_model(catalog, plan.version)
    assert model is not None
    assert model["rows"]["duplicate_free"] == 0
    assert "duplicate_free_accuracy" not in model["metrics"]


def test_slices_join_what_the_manifest_says(spec: DatasetSpec, catalog: Catalog) -> None:
    listed = dict.fromkeys(catalog.manifest.schema.names)
    rows = [
        {**listed, "uri": f"mem://{number}", "licence": licence, "partition": "all"}
        for number, licence in [(4, "CC0"), (5, "CC0"), (6, "BY"), (4, "CC0")]
    ]
    store_partition(catalog.manifest, rows, "all")
    plan = trained(catalog, spec)
    run(spec, catalog, plan)
    numbers = numbers_of(catalog, plan.version)
    found = {key[1]: value for key, value in numbers.items() if key[0] == "slice:licence:accuracy"}
    assert found == {"CC0": 1.0, "BY": 0.0, "not given": 0.0}
    assert numbers["slice:licence:images", "CC0"] == 2
    assert numbers["slice:size:images", "under 64 px"] == 4
