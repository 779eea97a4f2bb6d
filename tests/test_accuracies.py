"""Comparisons of accuracies tell a worse model from an equal one as often as they say."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sightline import gating
from tests import accuracies

Array = np.ndarray[Any, Any]
SEEDS, IMAGES, RUNS = 5, 439, 400
MARGIN = 0.01


def simulate(accuracy: float, loss: float, runs: int = RUNS) -> Iterator[accuracies.Difference]:
    """Comparisons of a model of that accuracy with one that is better by `loss`.

    Some images are hard for both models, and some seeds are bad for one of them (0.3 points of standard
    deviation), as in real trainings.
    """
    rng = np.random.default_rng(0)
    hard = rng.random(IMAGES) < 4 * (1 - accuracy)
    for _ in range(runs):
        yield accuracies.compare(
            draw(rng, hard, 1 - accuracy), draw(rng, hard, 1 - accuracy - loss)
        )


def draw(rng: np.random.Generator, hard: Array, errors: float) -> Array:
    """Which answers are right, (seeds, images): three quarters of the errors are at hard images."""
    of_seeds = np.clip(errors + rng.normal(0, 0.003, (SEEDS, 1)), 0, 1)
    chances = np.where(hard, 0.75 * of_seeds / hard.mean(), 0.25 * of_seeds / (1 - hard.mean()))
    return np.asarray(rng.random((SEEDS, IMAGES)) >= chances)


def fails(difference: accuracies.Difference, margin: float = MARGIN) -> bool:
    try:
        accuracies.assert_not_worse(difference, margin)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("accuracy", [0.9, 0.99])
def test_equal_models_do_not_fail(accuracy: float) -> None:
    found = list(simulate(accuracy, loss=0.0))
    assert sum(map(fails, found)) <= 0.01 * RUNS
    assert sum(one.low <= 0 <= one.high for one in found) >= 0.94 * RUNS


def test_a_model_that_is_as_much_worse_as_allowed_rarely_fails() -> None:
    assert sum(map(fails, simulate(0.97, loss=MARGIN))) <= 0.05 * RUNS


def test_a_model_that_is_really_worse_fails() -> None:
    assert sum(map(fails, simulate(0.96, loss=0.03))) >= 0.85 * RUNS
    assert sum(map(fails, simulate(0.95, loss=0.04))) >= 0.98 * RUNS


def test_the_failure_names_the_difference_and_its_interval() -> None:
    right, wrong = np.ones((3, 100), dtype=bool), np.zeros((3, 100), dtype=bool)
    with pytest.raises(AssertionError, match=r"worse by more than 0.01: -1.0000 \(95% interval"):
        accuracies.assert_not_worse(accuracies.compare(wrong, right), MARGIN)


def test_one_seed_has_the_interval_of_the_gate() -> None:
    ours, theirs = np.ones((1, 200), dtype=bool), np.ones((1, 200), dtype=bool)
    ours[0, :3], theirs[0, 3:15] = False, False
    found = accuracies.compare(ours, theirs)
    known = gating.compare(200, gained=12, lost=3, confidence=0.95)
    assert (found.mean, found.low, found.high) == (known.difference, known.low, known.high)


def test_seeds_that_agree_by_chance_make_the_interval_no_narrower_than_the_images_do() -> None:
    ours, theirs = np.ones((3, 400), dtype=bool), np.ones((3, 400), dtype=bool)
    for seed in range(3):
        theirs[seed, 4 * seed : 4 * seed + 4] = False  # the same difference each time
    found = accuracies.compare(ours, theirs)
    half = 1.96 * stats.sem((ours.astype(float) - theirs).mean(axis=0))
    assert found.mean == pytest.approx(0.01)
    assert found.high - found.low == pytest.approx(2 * half, rel=1e-3)


def test_a_gain_is_demanded_by_a_negative_margin() -> None:
    ours, theirs = np.ones((1, 400), dtype=bool), np.ones((1, 400), dtype=bool)
    theirs[0, :12] = False
    difference = accuracies.compare(ours, theirs)  # 0.03, of 0.013 to 0.046
    assert not fails(difference, margin=-0.015)
    assert fails(difference, margin=-0.05)


def test_an_accuracy_below_what_is_demanded_fails_only_beyond_chance() -> None:
    accuracies.assert_at_least(0.88, 50, least=0.9)
    with pytest.raises(AssertionError, match=r"0.8800 on 1000 test images .* is below 0.9"):
        accuracies.assert_at_least(0.88, 1000, least=0.9)
