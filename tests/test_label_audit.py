"""The audit of labels: planted errors come first, nobody judges what it has seen, and only what the dataset
file excludes is left out.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.covariance import oas
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from sightline import exclusions, tables
from sightline.catalog import Catalog
from sightline.confident_learning import (
    Confidence,
    far_out,
    label_issues,
    self_confidence,
    suggest,
)
from sightline.config import DatasetSpec, ReduceSpec
from sightline.discriminant import ClassSums, fit_discriminant, shrink
from sightline.errors import ConfigError
from sightline.fine_tuning.training_set import build_training_set
from sightline.label_audit import audit_labels
from sightline.label_audit.audited import Audit
from sightline.models import Plan
from tests.conftest import catalog_of, make_task, store_embeddings, write_dataset

Array = np.ndarray[Any, Any]
DATASET = "source: {type: folder, path: photos}\nreduce: {components: 6}\n"
CLASSES = ("bus", "car", "tram")
SPLITS = ["train", "train", "train", "test"]


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    return catalog_of(spec)


def clouds(rows: int = 240, wrong: int = 12, seed: int = 0) -> tuple[Array, list[str], list[int]]:
    """Three classes well apart, their labels, and which rows are labelled wrong."""
    rng = np.random.default_rng(seed)
    truth = np.arange(rows) % 3
    values = np.float32(rng.normal(size=(rows, 8)) + 4 * np.eye(3, 8)[truth])
    planted = rng.choice(rows, wrong, replace=False)
    given = truth.copy()
    given[planted] = (given[planted] + 1) % 3
    return values, [CLASSES[one] for one in given], sorted(planted.tolist())


def audit(spec: DatasetSpec, catalog: Catalog, plan: Plan, run_id: str = "run-1") -> dict[str, Any]:
    task, record = make_task("audit_labels", run_id=run_id)
    audit_labels(spec, catalog, task, record, plan)
    return record.counts


def rows_of(catalog: Catalog, plan: Plan) -> list[dict[str, Any]]:
    """The suspicious rows, the worst first."""
    table = catalog.suspicious_labels
    batches = tables.read_batches(table, table.schema.names, partition=plan.version)
    found = pa.Table.from_batches(batches, table.schema).sort_by("rank").to_pylist()
    assert [row["rank"] for row in found] == list(range(1, len(found) + 1))
    return found


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [int(row["image_id"], 16) for row in rows]


def test_planted_errors_come_first_with_the_right_suggestion_in_every_split(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    values, labels, planted = clouds()
    values[203] = 20.0  # like no class; of the test split, so that no head is fitted to it
    plan = store_embeddings(catalog, spec, values, labels, SPLITS * 60)
    counts = audit(spec, catalog, plan)
    found = rows_of(catalog, plan)
    first = found[: len(planted)]
    assert len(set(numbers(first)) & set(planted)) >= len(planted) - 1
    assert {row["split"] for row in first} == {"train", "test"}
    for row in (row for row in first if int(row["image_id"], 16) in planted):
        number = int(row["image_id"], 16)
        assert (row["label"], row["suggested"]) == (labels[number], CLASSES[number % 3])
        assert row["score"] == pytest.approx(row["label_probability"], rel=1e-5)
        assert row["score"] < 0.5 < row["suggested_probability"]
    assert sum(row["is_label_issue"] for row in first) >= len(planted) - 2
    assert [
        number for number, row in zip(numbers(found), found, strict=True) if row["is_outlier"]
    ] == [203]
    assert (counts["judged"], counts["train_images"], counts["outliers"]) == (240, 180, 1)
    assert not any(row["is_excluded"] for row in found)
    assert exclusions.read_exclusions(catalog, plan.version) == {}
    assert audit(spec, catalog, plan, "run-2") == counts
    assert rows_of(catalog, plan) == found


def test_nobody_judges_an_image_or_a_near_copy_that_it_has_seen(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    """Copies with the same wrong label would vouch for each other."""
    values, labels, _ = clouds(wrong=0)
    values[0:12:3], labels[0:12:3] = values[0], ["tram"] * 4
    groups = [f"{0 if one in range(0, 12, 3) else one:016x}" for one in range(240)]
    plan = store_embeddings(catalog, spec, values, labels, ["train"] * 240, groups)
    folds = pa.Table.from_batches(Audit(spec, catalog, plan, frozenset()).batches()).to_pylist()
    of_group = {row["fold"] for row in folds if int(row["image_id"], 16) in range(0, 12, 3)}
    assert len(of_group) == 1
    sizes = [[row["fold"] for row in folds if row["label"] == one] for one in CLASSES]
    for one in sizes:
        shares = np.bincount(one, minlength=3)
        assert shares.max() - shares.min() <= 4  # the largest group
    audit(spec, catalog, plan)
    assert set(numbers(rows_of(catalog, plan)[:4])) == set(range(0, 12, 3))


def test_a_class_that_its_judge_has_not_seen_and_a_missing_label_are_not_judged(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    values, clean, _ = clouds(wrong=0)
    labels: list[Any] = list(clean)
    labels[0], labels[3], labels[7] = "once", "new", None
    plan = store_embeddings(catalog, spec, values, labels, SPLITS * 60)
    assert audit(spec, catalog, plan)["judged"] == 237
    assert not {0, 3, 7} & set(numbers(rows_of(catalog, plan)))


def test_one_class_or_nothing_to_train_on_is_left_to_the_training(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    plan = store_embeddings(catalog, spec, np.eye(4), ["a"] * 4, ["train"] * 4)
    assert audit(spec, catalog, plan)["judged"] == 0
    assert rows_of(catalog, plan) == []


@pytest.mark.parametrize(
    ("wanted", "count"), [("worst: 5", 5), ("share: 0.05", 9), ("below: 0.5", None), (None, 0)]
)
def test_only_what_the_dataset_file_says_is_excluded_and_only_of_the_train_split(
    own_places: Path, wanted: str | None, count: int | None
) -> None:
    block = f"labels: {{exclude_suspicious: {{{wanted}}}}}\n" if wanted else ""
    spec = write_dataset(own_places, "photos", DATASET + "fine_tune: {}\n" + block)
    catalog = catalog_of(spec)
    values, labels, planted = clouds(wrong=24)
    plan = store_embeddings(catalog, spec, values, labels, SPLITS * 60)
    audit(spec, catalog, plan)
    found = rows_of(catalog, plan)
    train = [row for row in found if row["split"] == "train"]
    excluded = [row for row in found if row["is_excluded"]]
    assert excluded == train[: len(excluded)]
    assert all(row["label_probability"] < row["suggested_probability"] for row in excluded)
    assert count in (None, len(excluded))
    kept = exclusions.read_exclusions(catalog, plan.version)
    assert kept == {row["image_id"]: "suspicious" for row in excluded}
    images = build_training_set(spec, catalog, plan, 0.1, str(own_places / "lists"))
    assert images.train_images + images.validation_images == 180 - len(excluded)
    assert sum(images.class_images) == images.train_images


@pytest.mark.parametrize("block", ["{}", "{worst: 3, below: 0.1}"])
def test_one_way_to_exclude_is_asked_for(own_places: Path, block: str) -> None:
    with pytest.raises(ConfigError, match="exclude_suspicious: give one of worst, share and below"):
        write_dataset(own_places, "odd", f"{DATASET}labels: {{exclude_suspicious: {block}}}\n")


def test_the_head_is_sklearns_on_its_components(spec: DatasetSpec) -> None:
    values, labels, _ = clouds(6000)
    values *= np.linspace(
        0.5, 3, 8, dtype=np.float32
    )  # where all spread alike, ours is drawn to that
    classes = np.array([CLASSES.index(label) for label in labels])
    shift = values[0].astype(np.float64)
    half = ClassSums.empty(3, 8).with_rows(values[:100], classes[:100], shift)
    sums = half.plus(ClassSums.empty(3, 8).with_rows(values[100:], classes[100:], shift))
    ours, _ = fit_discriminant(sums, shift, ReduceSpec(components=6)).judge(values)
    components = PCA(6, svd_solver="full").fit_transform(values.astype(np.float64))
    theirs = LinearDiscriminantAnalysis().fit(components, classes).predict_log_proba(components)
    np.testing.assert_allclose(np.exp(ours), np.exp(theirs), atol=0.02)  # ours is shrunk a little
    without = sums.minus(ClassSums.empty(3, 8).with_rows(values[:100], classes[:100], shift))
    rest = ClassSums.empty(3, 8).with_rows(values[100:], classes[100:], shift)
    for one, other in ((without.sums, rest.sums), (without.counts, rest.counts)):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_distances_are_mahalanobis_to_the_nearest_class() -> None:
    values, labels, _ = clouds(3000, wrong=0)
    classes = np.array([CLASSES.index(label) for label in labels])
    sums = ClassSums.empty(3, 8).with_rows(values, classes, np.zeros(8))
    judge = fit_discriminant(sums, np.zeros(8), ReduceSpec(components=7))
    _, distances = judge.judge(values)
    assert (distances**2).mean() == pytest.approx(7, rel=0.05)  # as of 7 independent normals
    _, far = judge.judge(values + 100)
    assert far.min() > 10 * distances.max()


def test_the_shrinkage_is_sklearns_and_flat_features_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 12)) * np.arange(1, 13)
    rows -= rows.mean(axis=0)
    covariance = rows.T @ rows / 20
    np.testing.assert_allclose(
        shrink(covariance, 20), oas(rows, assume_centered=True)[0], rtol=0.05
    )
    assert np.linalg.eigvalsh(shrink(np.zeros((3, 3)), 5)).min() > 0
    assert shrink(np.array([[4.0]]), 5) == pytest.approx(4.0)
    flat = ClassSums.empty(2, 3).with_rows(np.ones((6, 3)), np.array([0, 1] * 3), np.ones(3))
    logarithms, distances = fit_discriminant(flat, np.ones(3), ReduceSpec(components=1)).judge(
        np.ones((2, 3))
    )
    np.testing.assert_allclose(np.exp(logarithms), 0.5)
    assert np.isfinite(distances).all()


def test_confident_learning_follows_the_paper() -> None:
    """Worked by hand: thresholds 0.7 and 0.6; the third image is surely of class 1, the fourth of none."""
    probabilities = np.array(
        [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.55, 0.45], [0.2, 0.8], [0.45, 0.55]]
    )
    labels = np.array([0, 0, 0, 1, 1, 1])
    part = Confidence.empty(2).with_rows(probabilities[:2], labels[:2])
    confidence = part.with_rows(probabilities[2:], labels[2:])
    np.testing.assert_allclose(confidence.thresholds, [0.7, 0.6])
    issues = label_issues(probabilities, labels, confidence.thresholds)
    assert issues.tolist() == [False, False, True, False, False, False]
    assert self_confidence(probabilities, labels).tolist() == [0.9, 0.8, 0.4, 0.45, 0.8, 0.55]
    assert suggest(probabilities, labels).tolist() == [1, 1, 1, 0, 0, 0]
    assert Confidence.empty(2).thresholds.tolist() == [np.inf, np.inf]


def test_the_fence_stands_three_quartile_ranges_out() -> None:
    assert far_out(np.arange(101.0)) == 75 + 3 * 50
    assert far_out(np.zeros(0)) == np.inf
