"""Heads: each predicts without a JVM what Spark predicts, and its settings do what they say."""

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from sightline import models
from sightline.classifiers import (
    PORTABLE_HEADS,
    Classifier,
    LogisticRegression,
    Pca,
    Scaler,
    arrays_of,
    pack,
    unpack,
)
from sightline.config import HeadName, ReduceSpec, TrainSpec
from sightline.errors import TrainingError
from sightline.evaluation import evaluate
from sightline.principal_components import fit_pca, sum_moments
from sightline.reduction import reduce_features
from sightline.training import train_classifier
from sightline.training.fitting import fit_pipeline, plan_course, to_classifier
from sightline.training.heads import HEADS, Shape
from tests.conftest import catalog_of, make_task, store_embeddings, write_dataset

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Spark's OneVsRest never closes its pool of threads.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool")
Array = np.ndarray[Any, Any]
SPECS = [
    TrainSpec(head="logistic_regression", penalties=(0.01,), l1_ratios=(0.5,), max_iterations=10),
    TrainSpec(head="linear_svm", penalties=(0.01,), max_iterations=5, class_weights="balanced"),
    TrainSpec(head="random_forest", trees=7, depths=(4,), scale="each", seed=3),
    TrainSpec(head="multilayer_perceptron", hidden_layers=((5, 4),), max_iterations=20),
]
LABELS = ["bus", "car", "tram"]


@pytest.fixture(autouse=True)
def let_pools_go() -> Iterator[None]:
    """Let Spark's forgotten pools end here, and not in another module's test."""
    yield
    gc.collect()


def clouds(rows: int, seed: int, dim: int = 6) -> tuple[Array, list[str]]:
    """Three classes that overlap, of many directions that tell nothing."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, rows)
    values = rng.normal(size=(rows, dim)) + 1.5 * np.eye(3, dim)[classes]
    return values.astype(np.float32), [LABELS[one] for one in classes]


def frame(spark: "SparkSession", values: Array, labels: list[str]) -> "DataFrame":
    rows = [
        (f"{number:064x}", label, one.tolist())
        for number, (one, label) in enumerate(zip(values, labels, strict=True))
    ]
    return spark.createDataFrame(rows, "image_id string, label string, values array<float>")


def fit(
    spark: "SparkSession",
    values: Array,
    labels: list[str],
    train: TrainSpec,
    folder: Path,
    pca: Any,
) -> tuple[Any, Classifier]:
    """Spark's own pipeline, and the portable classifier as it comes out of its file."""
    rows = frame(spark, values, labels)
    course = plan_course(train, Counter(labels), rows)
    fitted = fit_pipeline(rows, course, HEADS[train.head].grid(train)[0])
    classifier = to_classifier(fitted, train.head, pca, str(folder / "spark"))
    return fitted, unpack(pack(classifier), train.head, classifier.labels)


@pytest.mark.slow
@pytest.mark.parametrize("reduced", [False, True], ids=["embeddings", "components"])
@pytest.mark.parametrize("train", SPECS, ids=lambda train: train.head)
def test_what_is_kept_predicts_as_sparks_own_pipeline(
    spark: "SparkSession", train: TrainSpec, reduced: bool, tmp_path: Path
) -> None:
    from pyspark.ml.functions import array_to_vector

    given, labels = clouds(90, seed=0)
    unseen, _ = clouds(300, seed=1)
    pca = None
    if reduced:
        shift = np.zeros(6)
        pca = fit_pca(sum_moments([given], shift), shift, ReduceSpec(components=4))
    inputs = [values if pca is None else pca.project(values) for values in (given, unseen)]
    fitted, classifier = fit(spark, inputs[0], labels, train, tmp_path, pca)
    rows = frame(spark, inputs[1], ["bus"] * len(unseen))
    ready = rows.select("image_id", "label", array_to_vector("values").alias("vector"))
    predicted = fitted.transform(ready).orderBy("image_id").collect()
    ours = classifier.probabilities(unseen)
    assert ours.dtype == np.float64
    assert classifier.labels == LABELS
    assert ours.argmax(axis=1).tolist() == [row["prediction"] for row in predicted]
    assert len(set(ours.argmax(axis=1).tolist())) == 3
    if train.head != "linear_svm":  # whose margins Spark makes no probabilities of
        theirs = np.array([row["probability"].toArray() for row in predicted])
        assert np.abs(ours - theirs).max() < 1e-6


@pytest.mark.slow  # test_label_overrides trains and evaluates a head, too
def test_a_trained_head_is_one_file_that_evaluation_reads(
    spark: "SparkSession", own_places: Path
) -> None:
    text = """
source: {type: folder, path: photos}
reduce: {components: 3}
train: {head: random_forest, trees: 5, depths: [3, 1], folds: 2}
"""
    spec = write_dataset(own_places, "photos", text)
    catalog = catalog_of(spec)
    values, labels = clouds(80, seed=0)
    plan = store_embeddings(catalog, spec, values, labels, ["train"] * 60 + ["test"] * 20)
    for stage in (reduce_features, train_classifier):
        task, record = make_task(stage.__name__)
        stage(spark, spec, catalog, task, record, plan)
    model = models.read_model(catalog, plan.version)
    assert model is not None
    tried = model["head"]["grid"]
    assert [(one["trees"], one["depth"]) for one in tried] == [(5, 3), (5, 1)]
    best = min(tried, key=lambda one: one["log_loss"])
    assert best == {**best, **model["head"]["parameters"]}
    assert record.counts == {"rows": 60, **best}
    assert model["reduction"]["components"] == 3
    classifier = models.load_classifier(catalog, model)
    assert classifier.pca is not None
    assert len(arrays_of(classifier.head)["roots"]) == 5
    task, record = make_task("evaluate")
    evaluate(spec, catalog, task, record, plan)
    right = classifier.probabilities(values[60:]).argmax(axis=1) == [
        LABELS.index(label) for label in labels[60:]
    ]
    assert record.counts["accuracy"] == pytest.approx(right.mean())
    assert not list(
        (own_places / "data" / "photos" / "staging").glob("*")
    )  # Spark's files are gone


@pytest.mark.slow
def test_balanced_weights_find_the_rare_class(spark: "SparkSession", tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = ["common"] * 190 + ["rare"] * 10
    values = np.float32(rng.normal(size=(200, 2)) + np.array([[0, 0]] * 190 + [[1.5, 0]] * 10))
    found = {}
    for class_weights in ("none", "balanced"):
        train = TrainSpec(penalties=(0.01,), max_iterations=10, class_weights=class_weights)
        _, classifier = fit(spark, values, labels, train, tmp_path, None)
        found[class_weights] = (classifier.probabilities(values[190:])[:, 1] > 0.5).mean()
    assert found["none"] < 0.3
    assert found["balanced"] > 0.6


@pytest.mark.slow
def test_weights_of_a_class_add_up_to_the_same(spark: "SparkSession") -> None:
    rows = frame(spark, *clouds(2, seed=0))
    course = plan_course(TrainSpec(class_weights="balanced"), {"a": 30, "b": 60, "c": 10}, rows)
    assert course.weights == pytest.approx({"a": 100 / 90, "b": 100 / 180, "c": 100 / 30})
    assert plan_course(TrainSpec(), {"a": 30, "b": 60}, rows).weights == {}


@pytest.mark.slow
def test_l1_leaves_out_what_tells_nothing(spark: "SparkSession", tmp_path: Path) -> None:
    values, labels = clouds(300, seed=0, dim=12)
    kept = {}
    for ratio in (0.0, 1.0):
        train = TrainSpec(penalties=(0.05,), l1_ratios=(ratio,), max_iterations=20)
        _, classifier = fit(spark, values, labels, train, tmp_path, None)
        kept[ratio] = np.abs(arrays_of(classifier.head)["coefficients"]).max(axis=0) > 1e-9
    assert kept[0.0].all()
    assert kept[1.0][:3].all()
    assert kept[1.0][3:].mean() < 0.3


def test_every_head_that_a_dataset_file_may_name_is_there() -> None:
    assert set(HEADS) == set(PORTABLE_HEADS) == set(get_args(HeadName))


def test_each_head_has_its_own_grid() -> None:
    grids = {
        name: HEADS[name].grid(train)
        for name, train in {
            "logistic_regression": TrainSpec(penalties=(1, 2), l1_ratios=(0, 0.5)),
            "linear_svm": TrainSpec(head="linear_svm", penalties=(1, 2)),
            "random_forest": TrainSpec(head="random_forest", trees=7, depths=(3, 4)),
            "multilayer_perceptron": TrainSpec(
                head="multilayer_perceptron", hidden_layers=((8,), (8, 4))
            ),
        }.items()
    }
    assert grids == {
        "logistic_regression": [
            {"penalty": penalty, "l1_ratio": ratio} for penalty in (1, 2) for ratio in (0, 0.5)
        ],
        "linear_svm": [{"penalty": 1}, {"penalty": 2}],
        "random_forest": [{"trees": 7, "depth": 3}, {"trees": 7, "depth": 4}],
        "multilayer_perceptron": [{"hidden_layers": [8]}, {"hidden_layers": [8, 4]}],
    }
    assert HEADS["logistic_regression"].grid(TrainSpec(penalties=(1,))) == [{"penalty": 1}]


def test_a_perceptron_that_the_driver_cannot_hold_is_refused() -> None:
    train = TrainSpec(head="multilayer_perceptron", hidden_layers=((4096,),))
    (entry,) = HEADS[train.head].grid(train)
    with pytest.raises(TrainingError, match=r"\[4096\] between 2,048 features and 10 .* 8,433,674"):
        HEADS[train.head].estimator(train, entry, Shape(2048, 10))


def test_a_file_without_a_pca_works_on_the_embeddings() -> None:
    head = LogisticRegression(np.eye(2), np.zeros(2))
    scaler = Scaler(np.zeros(2), np.ones(2))
    plain = unpack(
        pack(Classifier(["a", "b"], None, scaler, head)), "logistic_regression", ["a", "b"]
    )
    assert plain.pca is None
    turned = Pca(np.zeros(2), np.array([[0, 1.0], [1.0, 0]]), np.array([0.6, 0.4]))
    with_pca = Classifier(["a", "b"], turned, scaler, head)
    rows = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert plain.probabilities(rows).argmax(axis=1).tolist() == [0, 1]
    assert with_pca.probabilities(rows).argmax(axis=1).tolist() == [1, 0]
