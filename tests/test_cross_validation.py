"""Cross-validation: folds keep near-duplicates together, and nothing fitted sees what validates it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sightline import models, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, ReduceSpec
from sightline.embeddings import chosen_rows
from sightline.errors import TrainingError
from sightline.reduction import reduce_features
from sightline.training import train_classifier
from sightline.training.cross_validation import Score, choose, fit_pcas, project_rows
from sightline.training.folds import at_home, deal_folds
from tests.conftest import make_task, store_embeddings, store_rows, write_dataset

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Array = np.ndarray[Any, Any]
Image = tuple[str, str, str]  # image_id, label, group_id


def deal(
    spark: "SparkSession", images: Sequence[Image], folds: int, seed: int, parts: int = 1
) -> dict[str, int]:
    """The fold of each image."""
    rows = spark.createDataFrame(images, "image_id string, label string, group_id string")
    labels = sorted({label for _, label, _ in images})
    dealt = deal_folds(at_home(rows.repartition(parts)), labels, folds, seed)
    return {row["image_id"]: row["fold"] for row in dealt.select("image_id", "fold").collect()}


def in_groups(sizes: list[list[int]]) -> list[Image]:
    """Images of classes, each of which has groups of these sizes."""
    return [
        (f"{label}-{group}-{image}", f"class {label}", f"{label}-{group}")
        for label, groups in enumerate(sizes)
        for group, size in enumerate(groups)
        for image in range(size)
    ]


GROUPS = st.lists(st.one_of(st.just(1), st.integers(1, 6)), min_size=1, max_size=25)


@pytest.mark.slow
@settings(max_examples=4, phases=[Phase.generate])  # to shrink a failure would take many Spark jobs
@given(
    sizes=st.lists(GROUPS, min_size=20, max_size=40),
    folds=st.integers(2, 5),
    seed=st.integers(0, 99),
    order=st.randoms(use_true_random=False),
)
def test_groups_stay_together_and_classes_are_dealt_evenly_in_any_order(
    spark: "SparkSession", sizes: list[list[int]], folds: int, seed: int, order: Any
) -> None:
    images = in_groups(sizes)
    fold_of = deal(spark, images, folds, seed)
    assert set(fold_of.values()) <= set(range(folds))
    places: dict[str, set[int]] = {}
    for image, _, group in images:
        places.setdefault(group, set()).add(fold_of[image])
    assert all(len(found) == 1 for found in places.values())
    for label, groups in enumerate(sizes):
        counts = Counter(fold_of[image] for image, name, _ in images if name == f"class {label}")
        each = [counts[fold] for fold in range(folds)]
        assert max(each) - min(each) <= max(groups)
    shuffled = list(images)
    order.shuffle(shuffled)
    assert deal(spark, shuffled, folds, seed, parts=3) == fold_of


@pytest.mark.slow
def test_small_classes_do_not_all_begin_in_one_fold(spark: "SparkSession") -> None:
    images = in_groups([[1]] * 30)
    assert Counter(deal(spark, images, 3, 0).values()) == {0: 10, 1: 10, 2: 10}
    many = in_groups([[1] * 40])
    assert deal(spark, many, 3, 0) != deal(spark, many, 3, 1)


def test_a_group_of_two_classes_stays_together(spark: "SparkSession") -> None:
    images = [("1", "cat", "alike"), ("2", "dog", "alike"), ("3", "cat", "c"), ("4", "dog", "d")]
    fold_of = deal(spark, images, 2, 0)
    assert fold_of["1"] == fold_of["2"]
    assert set(fold_of.values()) == {0, 1}


DATASET = """
source: {type: folder, path: photos}
reduce: {components: 2}
train: {penalties: [0.01, 1.0], folds: 3, scale: each, max_iterations: 60}
"""
LABELS = ["bus", "car"] * 60


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


def with_outliers(spark: "SparkSession") -> tuple[Array, Array]:
    """Embeddings (120, 8), and folds (120,): some rows of each fold lie far out, each fold's in its own
    direction, so that a PCA of two components that has seen a fold is another one.
    """
    ids = [f"{number:064x}" for number in range(120)]
    fold_of = deal(spark, list(zip(ids, LABELS, ids, strict=True)), 3, 0)
    folds = np.array([fold_of[one] for one in ids])
    rng = np.random.default_rng(0)
    values = rng.normal(size=(120, 8))
    values[:, 0] += 1.2 * np.array([label == "car" for label in LABELS])
    values[:, 0] *= 2
    far = rng.random(120) < 0.3
    values[np.arange(120)[far], 2 + folds[far]] += rng.choice([-9, 9], far.sum())
    return values.astype(np.float32), folds


@pytest.mark.slow
def test_its_accuracies_are_those_of_a_pipeline_fitted_anew_in_each_fold(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    values, folds = with_outliers(spark)
    plan = store_embeddings(
        catalog, spec, np.concatenate([values, values[:2]]), LABELS + LABELS[:2],
        ["train"] * 120 + ["test"] * 2,
    )  # fmt: skip
    for stage in (reduce_features, train_classifier):
        task, record = make_task(stage.__name__)
        stage(spark, spec, catalog, task, record, plan)
    model = models.read_model(catalog, plan.version)
    assert model is not None
    for tried in model["head"]["grid"]:
        head = LogisticRegression(C=1 / (2 * tried["penalty"] * 80), max_iter=500)
        ours_in_sklearn = make_pipeline(PCA(2), StandardScaler(), head)
        theirs = cross_val_score(ours_in_sklearn, values, LABELS, cv=PredefinedSplit(folds))
        assert tried["accuracy"] == pytest.approx(theirs.mean(), abs=0.0101)
        losses = cross_val_score(
            ours_in_sklearn, values, LABELS, cv=PredefinedSplit(folds), scoring="neg_log_loss"
        )
        assert tried["log_loss"] == pytest.approx(-losses.mean(), abs=0.01)


def test_of_what_is_as_accurate_the_one_that_knows_how_sure_it_is_is_chosen() -> None:
    scores = [Score(0.90, 0.30), Score(0.96, 0.20), Score(0.97, 1.00)]
    assert choose(scores, 100) == 1  # a standard error is 1.7 points
    assert choose(scores, 10_000) == 2  # 0.17 points


def test_without_log_loss_the_most_accurate_is_chosen() -> None:
    assert choose([Score(0.96, None), Score(0.97, None), Score(0.96, None)], 100) == 1


def test_where_nothing_is_wrong_log_loss_decides() -> None:
    assert choose([Score(1.0, 0.2), Score(1.0, 0.1), Score(0.99, 0.0)], 100) == 1


def test_a_folds_pca_is_that_of_all_other_rows(spark: "SparkSession", catalog: Catalog,
                                               spec: DatasetSpec, tmp_path: Path) -> None:  # fmt: skip
    values, folds = with_outliers(spark)
    plan = store_embeddings(catalog, spec, values, LABELS, ["train"] * 120)
    more = [
        {"image_id": f"{number:064x}", "backbone_id": "made-up", "embedding": [50.0] * 8}
        for number in (500, 501)  # of no fold
    ]
    store_rows(catalog.features, more, "made-up")
    files = tables.file_urls(catalog.features, None, plan.backbone_id)
    rows = [
        (f"{number:064x}", label, fold)
        for number, (label, fold) in enumerate(zip(LABELS, folds.tolist(), strict=True))
    ]
    chosen = spark.createDataFrame(rows, "image_id string, label string, fold int")
    selection = chosen_rows(spark, files, chosen)
    pcas = list(
        fit_pcas(selection, values[0].astype(float), ReduceSpec(components=2), str(tmp_path))
    )
    assert len(pcas) == 3
    for fold, pca in enumerate(pcas):
        exact = PCA(2).fit(values[folds != fold].astype(float))
        np.testing.assert_allclose(
            np.abs((pca.components * exact.components_).sum(axis=1)), 1, atol=1e-6
        )
        np.testing.assert_allclose(pca.mean, exact.mean_, atol=1e-5)
    projected = project_rows(selection, pcas[0], str(tmp_path)).orderBy("image_id").collect()
    assert [row["fold"] for row in projected] == folds.tolist()
    assert [row["label"] for row in projected] == LABELS
    ours = np.array([row["values"] for row in projected])
    np.testing.assert_allclose(ours, pcas[0].project(values), atol=1e-4)


@pytest.mark.slow
def test_a_fold_too_small_for_the_wanted_components_has_fewer(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(size=(6, 8))
    plan = store_embeddings(catalog, spec, values, LABELS[:6], ["train"] * 6)
    files = tables.file_urls(catalog.features, None, plan.backbone_id)
    rows = [(f"{number:064x}", number % 3) for number in range(6)]
    chosen = chosen_rows(spark, files, spark.createDataFrame(rows, "image_id string, fold int"))
    pcas = fit_pcas(chosen, values[0], ReduceSpec(components=5), str(tmp_path))
    assert [len(pca.components) for pca in pcas] == [3, 3, 3]


def test_images_that_look_alike_count_as_one_against_the_folds(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    whole = spec.model_copy(update={"reduce": None})
    groups = [f"{number // 4}" for number in range(16)]
    labels = ["bus"] * 8 + ["car"] * 8
    plan = store_embeddings(catalog, whole, np.eye(16), labels, ["train"] * 16, groups)
    task, record = make_task("train")
    with pytest.raises(
        TrainingError, match="folds is 3, but no class has more than 2 train images that"
    ):
        train_classifier(spark, whole, catalog, task, record, plan)
