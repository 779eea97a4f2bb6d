"""Training: what is kept predicts as Spark does, and the same data give the same model."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sightline import exclusions, models, storage
from sightline.catalog import Catalog
from sightline.classifiers import Classifier, arrays_of
from sightline.config import DatasetSpec, TrainSpec
from sightline.errors import TrainingError
from sightline.training import train_classifier
from sightline.training.fitting import fit_pipeline, plan_course, to_classifier
from sightline.training.heads import HEADS
from tests.conftest import catalog_of, make_task, store_embeddings, write_dataset

if TYPE_CHECKING:
    from pyspark.ml import PipelineModel
    from pyspark.sql import DataFrame, SparkSession

DATASET = """
source: {type: folder, path: photos}
reduce: null
train: {penalties: [0.003, 3.0], folds: 2, max_iterations: 30}
"""
QUICK = TrainSpec(penalties=(0.01,), folds=2, max_iterations=30, scale="each")
Array = np.ndarray[Any, Any]


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


def clouds(rows: int = 90, dim: int = 4, seed: int = 0) -> tuple[Array, list[str]]:
    """Three classes that overlap a little; the last column never varies."""
    rng = np.random.default_rng(seed)
    classes = np.arange(rows) % 3
    values = rng.normal(size=(rows, dim)) + 1.5 * np.eye(3, dim)[classes]
    values[:, -1] = 0.1
    return values.astype(np.float32), [["tram", "bus", "car"][one] for one in classes]


def frame(spark: "SparkSession", values: Array, labels: list[str], parts: int = 1) -> "DataFrame":
    rows = [
        (f"{number:064x}", label, one.tolist())
        for number, (one, label) in enumerate(zip(values, labels, strict=True))
    ]
    if parts > 1:  # the same rows in another order and other partitions
        rows = rows[::-1]
    schema = "image_id string, label string, values array<float>"
    return spark.createDataFrame(rows, schema).repartition(parts)


def fit(rows: "DataFrame", train: TrainSpec = QUICK) -> "PipelineModel":
    """The pipeline fitted with the first entry of the grid."""
    counts = Counter(row["label"] for row in rows.select("label").collect())
    course = plan_course(train, counts, rows)
    return fit_pipeline(rows, course, HEADS[train.head].grid(train)[0])


def kept(fitted: "PipelineModel") -> Classifier:
    return to_classifier(fitted, "logistic_regression", None, "no folder")


def test_the_same_data_give_the_same_model_in_any_order(spark: "SparkSession") -> None:
    values, labels = clouds()
    one, other = (kept(fit(frame(spark, values, labels, parts))) for parts in (1, 3))
    one_head, other_head = arrays_of(one.head), arrays_of(other.head)
    np.testing.assert_allclose(one_head["coefficients"], other_head["coefficients"], atol=1e-9)
    np.testing.assert_allclose(one_head["intercepts"], other_head["intercepts"], atol=1e-9)
    assert one.scaler.factors[-1] == 1.0  # where a column never varies
    assert np.isfinite(one.probabilities(values + 1)).all()


def train(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, values: Array, labels: list[Any],
    splits: list[str],
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """The record's counts and the model.json of a training."""
    plan = store_embeddings(catalog, spec, values, labels, splits)
    task, record = make_task("train")
    train_classifier(spark, spec, catalog, task, record, plan)
    model = models.read_model(catalog, plan.version)
    assert model is not None
    return record.counts, model


def test_the_best_penalty_is_chosen_and_the_model_describes_itself(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    values, labels = clouds()
    lopsided = ["tram"] * 200 + labels  # so that a far too strong penalty predicts trams only
    noise = np.random.default_rng(1).normal(size=(200, 4)) + [1.5, 0, 0, 0]
    everything = np.float32(np.concatenate([noise, values]))
    splits = ["train"] * 280 + ["test"] * 10
    counts, model = train(spark, spec, catalog, everything, lopsided, splits)
    grid = model["head"]["grid"]
    assert [entry["penalty"] for entry in grid] == [0.003, 3.0]
    assert grid[0]["accuracy"] > grid[1]["accuracy"]
    assert grid[0]["log_loss"] < grid[1]["log_loss"]
    assert model["head"]["kind"] == "logistic_regression"
    assert model["head"]["parameters"] == {"penalty": 0.003}
    assert counts == {"rows": 280, **grid[0]}
    assert (model["labels"], model["rows"]) == (["bus", "car", "tram"], {"train": 280})
    assert model["spec"] == spec.model_dump(mode="json")
    assert model["reduction"] is None
    classifier = models.load_classifier(catalog, model)
    right = classifier.probabilities(everything[:280]).argmax(axis=1) == [
        model["labels"].index(label) for label in lopsided[:280]
    ]
    assert right.mean() > grid[0]["accuracy"] - 0.05


def test_images_without_a_label_and_of_other_splits_are_left_out(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    values, labels = clouds(40)
    labels[:2], labels[-1] = [None, None], "only in test"  # type: ignore[list-item]
    counts, model = train(spark, spec, catalog, values, labels, ["train"] * 30 + ["test"] * 10)
    assert counts["rows"] == 28
    assert model["labels"] == ["bus", "car", "tram"]


def test_what_the_plan_leaves_out_is_not_trained_on_and_listed_beside_the_model(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    values, labels = clouds(42)
    plan = store_embeddings(catalog, spec, values, labels, ["train"] * 30 + ["test"] * 12)
    reasons = {f"{0:064x}": "suspicious", f"{1:064x}": "suspicious", f"{2:064x}": "conflict"}
    task, record = make_task("train")
    exclusions.write_exclusions(catalog, plan.version, reasons, task.writer)
    exclusions.write_exclusions(catalog, "another", {f"{3:064x}": "conflict"}, task.writer)
    train_classifier(spark, spec, catalog, task, record, plan)
    model = models.read_model(catalog, plan.version)
    assert model is not None
    assert record.counts["rows"] == model["rows"]["train"] == 27
    assert model["excluded"] == {"suspicious": 2, "conflict": 1, "list": "excluded.json"}
    kept = storage.read_json(storage.join(catalog.model(plan.version), "excluded.json"))
    assert kept == reasons


def test_too_few_classes_or_images_are_refused(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    values, _ = clouds(6)
    with pytest.raises(TrainingError, match=r"photos has 1 class\(es\) .*\(bus\); .* needs two"):
        train(spark, spec, catalog, values, ["bus"] * 5 + ["car"], ["train"] * 5 + ["test"])
    single = spec.model_copy(update={"name": "single"})
    with pytest.raises(TrainingError, match="folds is 2, but no class has more than 1 train"):
        train(
            spark, single, catalog_of(single), values[:3], ["a", "b", "c"], ["train"] * 2 + ["test"]
        )


def test_answers_are_those_of_scikit_learn(spark: "SparkSession") -> None:
    """Both minimise the same convex loss, so that all processors come to the same answers."""
    digits = load_digits()
    values, labels = digits.data.astype(np.float32), [str(one) for one in digits.target]
    held_out = np.arange(len(values)) % 4 == 0
    given = [label for label, out in zip(labels, held_out, strict=True) if not out]
    truth = np.array(labels)[held_out]
    spec = TrainSpec(penalties=(0.003,), folds=2, scale="each")
    ours = kept(fit(frame(spark, values[~held_out], given), spec))
    scaler = StandardScaler().fit(values[~held_out])
    # Spark's penalty is on the mean loss, scikit-learn's C on the sum.
    theirs = LogisticRegression(C=1 / (0.003 * len(given)), max_iter=500)
    theirs.fit(scaler.transform(values[~held_out]), given)
    answers = np.array(ours.labels)[ours.probabilities(values[held_out]).argmax(axis=1)]
    differ = answers != theirs.predict(scaler.transform(values[held_out]))
    assert (answers == truth).mean() > 0.9
    assert differ.sum() <= 2  # of 450; Spark stops after 30 iterations
