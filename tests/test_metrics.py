"""Metrics: every number as worked out by hand, and none that depends on how rows come in."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline import metrics
from sightline.config import GATE_METRICS
from sightline.metrics import BINS, METRICS_BY_NAME, Tally, metric_rows, per_class

Array = np.ndarray[Any, Any]

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
    assert metrics.accuracy(tally) == 0.8
    assert metrics.macro_f1(tally) == pytest.approx((0.8 + 2 / 3 + 1) / 3)
    losses = [-math.log(share) for share in (0.7, 0.5, 0.8, 0.6, 0.3)]
    assert metrics.log_loss(tally) == pytest.approx(sum(losses) / 5)
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
    assert metrics.top_5_accuracy(tallied(list("abcdef"), shares, "abcdef")) == 5 / 6
    assert metrics.top_5_accuracy(tallied([*HAND_LABELS], HAND)) == 1


def test_what_never_occurs_is_zero_and_left_out_of_the_mean() -> None:
    tally = tallied(["a", "a"], np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]]))
    assert per_class(tally.confusion)[2] == {
        "precision": 0, "recall": 0, "f1": 0, "support": 0, "predicted": 0,
    }  # fmt: skip
    assert metrics.macro_f1(tally) == 1


def test_a_class_that_was_not_trained_counts_as_wrong_and_is_left_out_of_the_loss() -> None:
    tally = tallied(["a", "new", "b"], HAND[[0, 0, 2]], ["a", "b", "c", "new"])
    assert (tally.rows, tally.with_loss) == (3, 2)
    assert metrics.accuracy(tally) == metrics.top_5_accuracy(tally) == pytest.approx(2 / 3)
    assert metrics.log_loss(tally) == pytest.approx(-(math.log(0.7) + math.log(0.8)) / 2)
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
    np.testing.assert_allclose(parts.reliability, whole.reliability)


def test_the_calibration_error_is_the_one_worked_out_by_hand() -> None:
    # Confidences 0.7, 0.5, 0.8, 0.6, 0.6 of 15 bins: 0.5 alone, both 0.6 together, 0.7 and 0.8 alone.
    tally = tallied([*HAND_LABELS], HAND)
    right = {0.7: [1], 0.5: [0], 0.8: [1], 0.6: [1, 0]}
    gaps = [abs(sum(hits) - confidence * len(hits)) for confidence, hits in right.items()]
    assert metrics.calibration_error(tally) == pytest.approx(sum(gaps) / 5)
    bins = {row["label"]: row["value"] for row in metric_rows(tally) if "y:images" in row["name"]}
    assert bins == {"8": 1, "9": 2, "11": 1, "12": 1}


def test_a_model_that_is_right_as_often_as_it_says_has_no_calibration_error() -> None:
    shares = np.array([[0.75, 0.25]] * 8)
    assert metrics.calibration_error(tallied(list("aaabaaba"), shares, "ab")) == 0
    assert metrics.calibration_error(tallied(list("aaaaaaaa"), shares, "ab")) == 0.25
    assert metrics.calibration_error(tallied(list("bbbbbbbb"), shares, "ab")) == 0.75


def test_each_confidence_has_its_bin() -> None:
    upper = np.arange(1, BINS + 1) / BINS
    assert metrics.confidence_bins(upper - 1e-9).tolist() == list(range(BINS))
    assert metrics.confidence_bins(np.array([0.0, 1.0])).tolist() == [0, BINS - 1]


@given(seed=st.integers(0, 1000), rows=st.integers(1, 60))
def test_the_calibration_error_lies_between_the_overall_gap_and_1(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(4), rows)
    tally = tallied([str(one) for one in rng.choice(list("abcd"), rows)], shares, "abcd")
    gap = abs(metrics.accuracy(tally) - shares.max(axis=1).mean())
    assert gap - 1e-9 <= metrics.calibration_error(tally) <= 1


def test_a_gate_knows_metrics_where_more_is_better() -> None:
    less_is_better = {"log_loss", "calibration_error"}
    beside = {"duplicate_free_accuracy"}  # of another set of images
    assert set(GATE_METRICS) == {*METRICS_BY_NAME, *beside} - less_is_better
