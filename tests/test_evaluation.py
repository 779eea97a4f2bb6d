"""Evaluation: every number as worked out by hand, every test image counted once."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline import evaluation, models, tables
from sightline.catalog import Catalog
from sightline.classifiers import Classifier, LogisticRegression, Pca, Scaler
from sightline.config import DatasetSpec
from sightline.errors import TrainingError
from sightline.evaluation import Tally, evaluate, metric_rows, per_class
from sightline.ledger import Record
from sightline.models import Plan
from tests.conftest import catalog_of, make_task, store_embeddings, write_dataset

DATASET = "source: {type: folder, path: photos}\nreduce: null\n"
Array = np.ndarray[Any, Any]


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", DATASET)


@pytest.fixture
def catalog(spec: DatasetSpec) -> Catalog:
    return catalog_of(spec)


HAND = np.array(
    [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.6, 0.3, 0.1]]
)
HAND_LABELS = ["a", "a", "b", "c", "b"]


def tallied(labels: list[str | None], probabilities: Array, names: Iterable[str] = "abc") -> Tally:
    tally = Tally.empty(list(names))
    tally.add(labels, probabilities)
    return tally


def test_the_numbers_are_those_worked_out_by_hand() -> None:
    tally = tallied([*HAND_LABELS], HAND)
    assert tally.confusion.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert evaluation.accuracy(tally) == 0.8
    assert evaluation.macro_f1(tally) == pytest.approx((0.8 + 2 / 3 + 1) / 3)
    losses = [-math.log(share) for share in (0.7, 0.5, 0.8, 0.6, 0.3)]
    assert evaluation.log_loss(tally) == pytest.approx(sum(losses) / 5)
    a, b, c = per_class(tally.confusion)
    assert a == {
        "precision": 2 / 3,
        "recall": 1,
        "f1": pytest.approx(0.8),
        "support": 2,
        "predicted": 3,
    }
    assert (b["precision"], b["recall"], b["support"], b["predicted"]) == (1, 0.5, 2, 1)
    assert (c["precision"], c["recall"], c["f1"]) == (1, 1, 1)


def test_top_5_counts_the_five_likeliest() -> None:
    shares = np.array([[0.30, 0.25, 0.20, 0.12, 0.08, 0.05]] * 6)
    assert evaluation.top_5_accuracy(tallied(list("abcdef"), shares, "abcdef")) == 5 / 6
    assert evaluation.top_5_accuracy(tallied([*HAND_LABELS], HAND)) == 1


def test_what_never_occurs_is_zero_and_left_out_of_the_mean() -> None:
    tally = tallied(["a", "a"], np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]]))
    assert per_class(tally.confusion)[2] == {
        "precision": 0, "recall": 0, "f1": 0, "support": 0, "predicted": 0,
    }  # fmt: skip
    assert evaluation.macro_f1(tally) == 1


def test_a_class_that_was_not_trained_counts_as_wrong_and_is_left_out_of_the_loss() -> None:
    tally = tallied(["a", "new", "b"], HAND[[0, 0, 2]], ["a", "b", "c", "new"])
    assert (tally.rows, tally.with_loss) == (3, 2)
    assert evaluation.accuracy(tally) == evaluation.top_5_accuracy(tally) == pytest.approx(2 / 3)
    assert evaluation.log_loss(tally) == pytest.approx(-(math.log(0.7) + math.log(0.8)) / 2)
    assert per_class(tally.confusion)[0]["precision"] == 0.5
    assert per_class(tally.confusion)[3]["support"] == 1
    cells = [row for row in metric_rows(tally) if row["name"] == "confusion:a"]
    assert {row["label"]: row["value"] for row in cells} == {"a": 1.0, "new": 1.0}


def test_an_image_without_a_label_is_not_counted() -> None:
    assert tallied(["a", None], HAND[:2]).rows == 1


@given(
    cuts=st.lists(st.integers(0, 40), max_size=6),
    order=st.permutations(range(40)),
    seed=st.integers(0, 100),
)
def test_a_tally_does_not_depend_on_batches_or_order(
    cuts: list[int], order: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(7), 40)
    labels: list[str | None] = [str(one) for one in rng.choice(list("abcdefgh"), 40)]
    whole = tallied(labels, shares, "abcdefgh")
    parts = Tally.empty(list("abcdefgh"))
    for piece in np.split(np.array(order), sorted(cuts)):
        parts.add([labels[row] for row in piece], shares[piece.astype(int)])
    assert parts.confusion.tolist() == whole.confusion.tolist()
    assert (parts.in_top_5, parts.with_loss) == (whole.in_top_5, whole.with_loss)
    assert parts.log_loss_sum == pytest.approx(whole.log_loss_sum)


LABELS = ["left", "right", "left", "right", "left", "right", "left", "up", None]
SPLITS = ["train"] * 4 + ["test"] * 5
VALUES = [[-1, 0], [1, 0], [-2, 0], [2, 0], [-1, 1], [1, 1], [3, 0], [2, 2], [1, 5]]


def trained(
    catalog: Catalog, spec: DatasetSpec, values: Any = VALUES, pca: Pca | None = None
) -> Plan:
    """A model by hand: to the right of 0 is right; without training, so without Spark."""
    plan = store_embeddings(catalog, spec, values, LABELS, SPLITS)
    head = LogisticRegression(np.array([[-1.0, 0], [1.0, 0]]), np.zeros(2))
    classifier = Classifier(["left", "right"], pca, Scaler(np.zeros(2), np.ones(2)), head)
    models.save_classifier(catalog, plan.version, classifier)
    models.write_model(
        catalog,
        {
            "version": plan.version,
            "labels": classifier.labels,
            "head": {"kind": "logistic_regression"},
            "rows": {"train": 4},
            "metrics": {},
        },
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
    assert model["rows"] == {"train": 4, "test": 4}
    assert (model["metrics"]["accuracy"], model["metrics"]["train_accuracy"]) == (0.5, 1.0)
    support = {
        row["label"]: row["value"] for row in stored(catalog.metrics) if row["name"] == "support"
    }
    assert support == {"left": 2, "right": 1, "up": 1}


def test_a_rerun_replaces_predictions_and_metrics(spec: DatasetSpec, catalog: Catalog) -> None:
    plan = trained(catalog, spec)
    run(spec, catalog, plan)
    before = [stored(catalog.predictions), stored(catalog.metrics)]
    run(spec, catalog, plan, "run-2")
    assert [stored(catalog.predictions), stored(catalog.metrics)] == before
    assert len(before[0]) == 5


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
    with pytest.raises(TrainingError, match="photos has no labelled test image"):
        run(spec, catalog, trained(catalog, spec))
