"""Reduction: the exact principal components, however the rows are cut up, of the train split alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from sightline import models, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, ReduceSpec
from sightline.errors import TrainingError
from sightline.exclusions import SUSPICIOUS, write_exclusions
from sightline.ledger import Record
from sightline.models import Pca, Plan
from sightline.principal_components import (
    add_moments,
    fit_pca,
    sum_moments,
)
from sightline.reduction import reduce_features
from sightline.tables import Writer
from tests.conftest import catalog_of, make_task, store_embeddings, store_rows, write_dataset

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DATASET = """
source: {type: folder, path: photos}
reduce: {components: 5}
"""
Array = np.ndarray[Any, Any]


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


def plain(rows: int = 60, dim: int = 12, seed: int = 0) -> Array:
    """Columns of falling spread, so that components are well apart."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, dim)) * 2.0 ** -np.arange(dim)).astype(np.float32)


def like_features(rows: int = 300, dim: int = 64, rank: int = 10) -> Array:
    """Never negative, of low rank, with a little noise: as what a network's last layer gives."""
    rng = np.random.default_rng(3)
    mixed = rng.normal(size=(rows, rank)) * 1.5 ** -np.arange(rank) @ rng.normal(size=(rank, dim))
    return np.maximum(mixed + 0.5 + 0.01 * rng.normal(size=(rows, dim)), 0).astype(np.float32)


def fit(data: Array, **wanted: Any) -> Pca:
    shift = data[0].astype(np.float64)
    return fit_pca(sum_moments([data], shift), shift, ReduceSpec(**wanted))


def assert_equals_sklearn(ours: Pca, data: Array) -> None:
    count = len(ours.components)
    exact = PCA(count, svd_solver="full").fit(data.astype(np.float64))
    signs = np.sign((ours.components * exact.components_).sum(axis=1))[:, None]
    assert np.abs(ours.components * signs - exact.components_).max() < 1e-4
    assert np.abs(ours.explained_variance_ratio - exact.explained_variance_ratio_).max() < 1e-4
    assert np.abs(ours.mean - exact.mean_).max() < 1e-4
    projected = exact.transform(data.astype(np.float64)) * signs.T
    assert np.abs(ours.project(data) - projected).max() < 1e-4 * max(1.0, np.abs(projected).max())


@pytest.mark.parametrize("mean", [0.0, 1000.0, -20000.0])
def test_components_equal_sklearns_however_large_the_means(mean: float) -> None:
    data = (plain(dim=6) * 8 + mean).astype(np.float32)
    assert_equals_sklearn(fit(data, components=4), data)


def test_components_of_data_like_features_equal_sklearns() -> None:
    assert_equals_sklearn(fit(like_features(), components=10), like_features())
    assert_equals_sklearn(fit(plain(8, 12), components=7), plain(8, 12))  # fewer rows than columns


def test_the_sign_of_a_component_is_settled() -> None:
    components = fit(plain(), components=6).components
    assert (components[np.arange(6), np.abs(components).argmax(axis=1)] > 0).all()


@given(
    cuts=st.lists(st.integers(0, 60), max_size=6),
    order=st.randoms(use_true_random=False),
    shift=st.floats(-5, 5),
)
def test_moments_do_not_depend_on_how_the_rows_are_cut_up(
    cuts: list[int], order: Any, shift: float
) -> None:
    data, about = plain(), np.full(12, shift)
    pieces = [piece for piece in np.split(data, sorted(cuts)) if len(piece)]
    order.shuffle(pieces)
    half = len(pieces) // 2
    parts = add_moments(sum_moments(pieces[:half], about), sum_moments(pieces[half:], about))
    whole = sum_moments([data], about)
    assert parts.count == whole.count == 60
    np.testing.assert_allclose(parts.sums, whole.sums, rtol=1e-9, atol=1e-9)
    for one in (parts, whole):
        expected = np.triu((data - about).T @ (data - about))
        np.testing.assert_allclose(np.triu(one.gramian), expected, rtol=1e-9, atol=1e-9)


@given(st.floats(-100, 100))
def test_the_shift_changes_nothing_in_the_components(shift: float) -> None:
    about = np.full(12, shift)
    shifted = fit_pca(sum_moments([plain()], about), about, ReduceSpec(components=4))
    np.testing.assert_allclose(shifted.components, fit(plain(), components=4).components, atol=1e-5)
    np.testing.assert_allclose(shifted.mean, plain().mean(axis=0), atol=1e-6)


@given(st.floats(0.05, 0.999))
def test_the_smallest_sufficient_number_of_components_is_kept(wanted: float) -> None:
    ratios = fit(plain(), explained_variance=wanted).explained_variance_ratio
    assert ratios.sum() >= wanted
    assert ratios[:-1].sum() < wanted


@pytest.mark.parametrize(("rows", "components", "most"), [(60, 13, 12), (8, 8, 7), (2, 2, 1)])
def test_more_components_than_the_data_allow_are_refused(
    rows: int, components: int, most: int
) -> None:
    assert len(fit(plain(rows), components=most).components) == most
    with pytest.raises(
        TrainingError, match=f"is {components}, but {rows} train .* allow {most} at"
    ):
        fit(plain(rows), components=components)


def test_one_image_is_refused_whatever_is_wanted() -> None:
    for wanted in ({"components": 1}, {"explained_variance": 0.5}):
        with pytest.raises(TrainingError, match="two train images, but there are 1"):
            fit(plain(1), **wanted)


def test_features_that_never_vary_do_no_harm() -> None:
    data = plain()
    data[:, [0, 5]] = 7.0
    assert_equals_sklearn(fit(data, components=4), data)
    constant = fit(np.full((5, 3), 0.1, np.float32), explained_variance=0.9)
    assert constant.components.shape == (1, 3)
    assert np.isfinite(constant.components).all()
    assert (constant.project(np.full((2, 3), 0.1, np.float32)) == 0).all()


def reduce(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog, plan: Plan, run_id: str = "run-1"
) -> Record:
    task, record = make_task("reduce", run_id=run_id)
    reduce_features(spark, spec, catalog, task, record, plan)
    return record


def stored(catalog: Catalog, version: str) -> Array:
    """The reduced rows of a model, in the order of the image's numbers."""
    batches = tables.read_batches(catalog.reduced, ["image_id", "components"], partition=version)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert len({row["image_id"] for row in rows}) == len(rows)
    return np.array(
        [row["components"] for row in sorted(rows, key=lambda row: str(row["image_id"]))]
    )


SPLITS = ["train", "train", "test", "train"] * 15


def test_spark_reduces_as_the_pca_projects_and_fits_on_train_only(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    data = plain()
    data[2::4] += 100  # the test split lies elsewhere
    data[1] -= 100  # and so does an image that is left out
    plan = store_embeddings(catalog, spec, data, ["a"] * 60, SPLITS)
    write_exclusions(catalog, plan.version, {f"{1:064x}": SUSPICIOUS}, Writer("tests"))
    record = reduce(spark, spec, catalog, plan)
    pca = models.load_pca(catalog, plan.version)
    assert pca is not None
    train = np.delete(data, [1, *range(2, 60, 4)], axis=0)
    assert_equals_sklearn(pca, train)
    np.testing.assert_allclose(stored(catalog, plan.version), pca.project(data), atol=1e-4)
    assert record.counts["rows"] == 60
    assert record.counts["components"] == 5
    assert record.counts["explained_variance"] == pytest.approx(
        PCA(5).fit(train).explained_variance_ratio_.sum(), abs=1e-3
    )
    assert [table["name"] for table in record.inputs] == ["features", "splits", "exclusions"]
    assert [table["name"] for table in record.outputs] == ["reduced"]


def test_one_file_or_many_give_the_same_reduced_table(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    data = like_features(60)
    plan = store_embeddings(catalog, spec, data, ["a"] * 60, SPLITS)
    reduce(spark, spec, catalog, plan)
    many = catalog_of(spec.model_copy(update={"name": "many"}))
    for start in range(0, 60, 12):
        rows = [
            {"image_id": f"{at:064x}", "backbone_id": "made-up", "embedding": data[at]}
            for at in range(start, start + 12)
        ]
        store_rows(many.features, rows, "made-up")
    splits = [
        {"image_id": f"{at:064x}", "group_id": "", "split": name} for at, name in enumerate(SPLITS)
    ]
    store_rows(many.splits, splits)
    other = models.make_plan(spec, many, "made-up")
    reduce(spark, spec, many, other)
    np.testing.assert_allclose(
        stored(many, other.version), stored(catalog, plan.version), atol=1e-4
    )


def test_a_rerun_replaces_and_other_features_are_left_out(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    plan = store_embeddings(catalog, spec, plain(), ["a"] * 60, SPLITS)
    later = {"image_id": "f" * 64, "backbone_id": "made-up", "embedding": plain(1)[0]}
    store_rows(catalog.features, [later], "made-up")  # after the plan was made
    other = {"image_id": f"{0:064x}", "backbone_id": "other", "embedding": [1.0]}
    store_rows(catalog.features, [other], "other")
    for run_id in ("run-1", "run-2"):
        assert reduce(spark, spec, catalog, plan, run_id).counts["rows"] == 60
        assert stored(catalog, plan.version).shape == (60, 5)


def test_a_train_split_without_features_is_refused(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    plan = store_embeddings(catalog, spec, plain(4), ["a"] * 4, ["test"] * 4)
    with pytest.raises(TrainingError, match="photos has no features of its train split"):
        reduce(spark, spec, catalog, plan)


def test_a_dataset_that_reduces_nothing_writes_nothing(
    spark: "SparkSession", spec: DatasetSpec, catalog: Catalog
) -> None:
    plan = store_embeddings(catalog, spec, plain(), ["a"] * 60, SPLITS)
    whole = spec.model_copy(update={"reduce": None})
    assert reduce(spark, whole, catalog, plan).counts["components"] == 0
    assert tables.current_version(catalog.reduced) is None
    assert models.load_pca(catalog, plan.version) is None


def test_nothing_summed_adds_nothing() -> None:
    nothing, whole = sum_moments([], np.zeros(3)), sum_moments([plain(5, 3)], np.zeros(3))
    assert nothing.count == 0
    summed = add_moments(nothing, whole)
    assert summed.count == 5
    np.testing.assert_array_equal(summed.gramian, whole.gramian)
