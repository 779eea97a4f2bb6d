"""The gate: which candidate is better, whether it may serve, and why not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline import models
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, GateSpec
from sightline.errors import ConfigError, TrainingError
from sightline.gating import compare, decide, describe
from sightline.models import Plan
from tests.conftest import make_task, store_partition, write_dataset

DATASET = "source: {type: digits}\nfine_tune: {}\n"
IMAGES = 200  # test images of every model here
PLAN = Plan("00002-new", "made-up", 1, 1, "f" * 64)
HEAD, TUNED, CHAMPION = "00002-new", "00002-new-tuned", "00001-old"

counts = st.tuples(st.integers(1, 400), st.integers(0, 400), st.integers(0, 400)).filter(
    lambda one: one[1] + one[2] <= one[0]
)


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "digits", DATASET)


def predicted(
    catalog: Catalog, version: str, wrong: range, first: int = 0, images: int = IMAGES
) -> None:
    """An evaluated model whose answers to some test images are wrong."""
    rows = [
        {
            "image_id": f"{number:064x}",
            "model_version": version,
            "label": "a",
            "predicted": "b" if number in wrong else "a",
            "probability": 0.9,
            "probabilities": [0.9, 0.1],
        }
        for number in range(first, first + images)
    ]
    store_partition(catalog.predictions, rows, version)
    right = sum(row["predicted"] == row["label"] for row in rows) / images
    model = {"version": version, "created_at": "2026-11-21T10:15:00+00:00", "labels": ["a", "b"]}
    model |= {"kind": "fine_tuned" if version.endswith("tuned") else "head"}
    model |= {"rows": {"train": 800, "test": images}, "fingerprint": version}
    metrics = {"accuracy": right, "macro_f1": right - 0.1}
    models.write_model(catalog, {**model, "metrics": metrics})


def judged(spec: DatasetSpec, catalog: Catalog, **gate: Any) -> dict[str, Any]:
    """The gate's decision, of one candidate where only a head has been evaluated."""
    update: dict[str, Any] = {"gate": GateSpec(**gate)}
    if models.read_model(catalog, TUNED) is None:
        update["fine_tune"] = None
    return decide(spec.model_copy(update=update), catalog, make_task("gate")[1], PLAN)


@given(counts)
def test_the_comparison_of_the_two_the_other_way_round_is_its_mirror(one: tuple[int, ...]) -> None:
    images, gained, lost = one
    ours, theirs = compare(images, gained, lost, 0.95), compare(images, lost, gained, 0.95)
    assert ours.difference == -theirs.difference
    assert (ours.low, ours.high) == (-theirs.high, -theirs.low)


@given(counts, st.floats(0.5, 0.9), st.floats(0.91, 0.999))
def test_the_interval_holds_the_difference_and_grows_with_the_confidence(
    one: tuple[int, ...], less: float, more: float
) -> None:
    narrow, wide = compare(*one, less), compare(*one, more)
    assert -1 <= wide.low <= narrow.low < narrow.high <= wide.high <= 1
    assert wide.low <= (wide.low + wide.high) / 2 <= wide.high


@given(st.integers(1, 10_000), st.data())
def test_models_that_gain_what_they_lose_do_not_differ(images: int, data: st.DataObject) -> None:
    changed = data.draw(st.integers(0, images // 2))
    found = compare(images, changed, changed, 0.95)
    assert found.difference == 0
    assert found.low == -found.high < 0


def test_more_images_make_the_interval_narrower() -> None:
    widths = [
        (found := compare(n, n // 10, n // 20, 0.95)).high - found.low for n in (100, 400, 1600)
    ]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.05)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.05)


def test_the_interval_is_the_one_worked_out_by_hand() -> None:
    # 0.5 in each cell: 5.5 against 10.5 of 102; a difference of -5/102.
    found = compare(100, 5, 10, 0.95)
    half = 1.959964 * ((16 / 102 - (5 / 102) ** 2) / 102) ** 0.5
    assert (found.low, found.high) == pytest.approx((-5 / 102 - half, -5 / 102 + half), abs=1e-6)


@pytest.mark.parametrize(
    ("images", "gains", "losses"), [(50, 0.1, 0.1), (100, 0.02, 0.05), (449, 0.03, 0.05)]
)
def test_the_interval_covers_the_truth_as_often_as_it_says(
    images: int, gains: float, losses: float
) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(images, [gains, losses, 1 - gains - losses], 4000)
    found = [compare(images, int(gained), int(lost), 0.9) for gained, lost, _ in drawn]
    covered = np.mean([one.low <= gains - losses <= one.high for one in found])
    assert 0.88 <= covered <= 0.96  # of 0.90: a little wide where changes are rare


def test_a_first_model_passes(spec: DatasetSpec, catalog: Catalog) -> None:
    predicted(catalog, HEAD, range(40))
    decision = judged(spec, catalog)
    assert decision["passed"]
    assert decision["chosen"] == HEAD
    assert decision["reasons"] == ["There is no champion to compare with."]
    assert decision["paired"] is None
    assert models.read_decision(catalog, HEAD) == decision


def test_a_model_below_a_minimum_is_refused(spec: DatasetSpec, catalog: Catalog) -> None:
    predicted(catalog, HEAD, range(40))
    decision = judged(spec, catalog, min={"accuracy": 0.8, "macro_f1": 0.75})
    assert not decision["passed"]
    assert decision["reasons"] == ["Its macro_f1 0.7000 is below gate.min, 0.75."]


def test_a_metric_that_a_model_does_not_have_is_below_every_minimum(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    predicted(catalog, HEAD, range(40))
    decision = judged(spec, catalog, min={"duplicate_free_accuracy": 0.1})
    assert decision["reasons"] == ["It has no duplicate_free_accuracy, of which gate.min asks 0.1."]


@pytest.mark.parametrize(
    ("wrong", "max_drop", "passed"),
    [
        (20, 0.01, True),  # the very same answers
        (10, 0.0, True),  # better
        (22, 0.01, True),  # as much worse as is allowed
        (23, 0.01, True),  # more, but three images of 200 may be chance
        (30, 0.01, False),  # ten more are not
        (30, 0.05, True),  # but allowed here
        (30, 0.049, False),
    ],
)
def test_a_model_is_refused_for_a_drop_that_is_larger_than_allowed_and_no_chance(
    spec: DatasetSpec, catalog: Catalog, wrong: int, max_drop: float, passed: bool
) -> None:
    predicted(catalog, CHAMPION, range(20))
    models.crown(catalog, CHAMPION)
    predicted(catalog, HEAD, range(wrong))
    decision = judged(spec, catalog, max_drop=max_drop)
    assert decision["passed"] == passed
    assert decision["paired"]["difference"] == pytest.approx((20 - wrong) / IMAGES)
    assert decision["champion"]["version"] == CHAMPION


def test_equal_models_are_said_to_be_equal(spec: DatasetSpec, catalog: Catalog) -> None:
    predicted(catalog, CHAMPION, range(20))
    models.crown(catalog, CHAMPION)
    predicted(catalog, HEAD, range(20, 40))
    (reason,) = judged(spec, catalog)["reasons"]
    assert reason.startswith(
        "It is as accurate as champion 00001-old on the 200 test images of both"
    )


def test_a_refusal_says_by_how_much_on_how_many_images(spec: DatasetSpec, catalog: Catalog) -> None:
    predicted(catalog, CHAMPION, range(20))
    models.crown(catalog, CHAMPION)
    predicted(catalog, HEAD, range(10, 50))
    (reason,) = judged(spec, catalog)["reasons"]
    assert reason.startswith(
        "It is 0.1000 less accurate than champion 00001-old on the 200 test images of both "
        "(95% interval -0.15"
    )
    assert reason.endswith("; gate.max_drop allows 0.01.")


def test_only_images_that_both_have_predicted_compare_them(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    predicted(catalog, CHAMPION, range(20))
    models.crown(catalog, CHAMPION)
    predicted(catalog, HEAD, range(150, 160), first=100)
    paired = judged(spec, catalog)["paired"]
    assert (paired["images"], paired["gained"], paired["lost"]) == (100, 0, 10)
    assert paired["difference"] == -0.1


def test_without_a_common_test_image_a_model_is_refused_unless_any_is_taken(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    predicted(catalog, CHAMPION, range(20))
    models.crown(catalog, CHAMPION)
    predicted(catalog, HEAD, range(0), first=1000)
    decision = judged(spec, catalog)
    assert not decision["passed"]
    assert "no test image in common with champion 00001-old" in decision["reasons"][0]
    assert judged(spec, catalog, max_drop=1)["passed"]


@pytest.mark.parametrize(
    ("head", "tuned", "chosen"), [(20, 19, TUNED), (19, 20, HEAD), (20, 20, HEAD)]
)
def test_the_better_candidate_is_chosen_and_of_equals_the_smaller(
    spec: DatasetSpec, catalog: Catalog, head: int, tuned: int, chosen: str
) -> None:
    predicted(catalog, HEAD, range(head))
    predicted(catalog, TUNED, range(100, 100 + tuned))
    decision = judged(spec, catalog)
    assert decision["chosen"] == chosen
    assert [one["version"] for one in decision["candidates"]] == [HEAD, TUNED]
    assert decision["between"]["difference"] == pytest.approx((head - tuned) / IMAGES)


def test_the_chosen_one_is_compared_with_the_champion(spec: DatasetSpec, catalog: Catalog) -> None:
    predicted(catalog, CHAMPION, range(20))
    models.crown(catalog, CHAMPION)
    predicted(catalog, HEAD, range(60))
    predicted(catalog, TUNED, range(18))
    decision = judged(spec, catalog)
    assert decision["passed"]
    assert decision["paired"]["gained"] == 2


def test_a_model_that_was_not_evaluated_is_not_judged(spec: DatasetSpec, catalog: Catalog) -> None:
    with pytest.raises(
        TrainingError, match="00002-new has not been evaluated; clear task evaluate"
    ):
        judged(spec, catalog)


def test_a_person_reads_both_models_side_by_side(spec: DatasetSpec, catalog: Catalog) -> None:
    predicted(catalog, CHAMPION, range(20))
    models.crown(catalog, CHAMPION)
    predicted(catalog, HEAD, range(16))
    predicted(catalog, TUNED, range(40))
    text = describe(judged(spec, catalog))
    assert text.startswith("It passes the gate. It is 0.0200 more accurate than champion 00001-old")
    assert (
        "| | 00002-new (new, head) | 00001-old (champion, head) | "
        "00002-new-tuned (other candidate, fine tuned) |\n|---|---|---|---|\n"
        "| accuracy | 0.9200 | 0.9000 | 0.8000 |\n"
    ) in text


@pytest.mark.parametrize(
    ("gate", "sentence"),
    [
        ("{min: {acuracy: 0.9}}", "unknown metric 'acuracy'; did you mean 'accuracy'?"),
        ("{min: {log_loss: 0.9}}", "unknown metric 'log_loss'. Known: accuracy, duplicate_free"),
        ("{min: {accuracy: 90}}", "gate.min.accuracy: input should be less than or equal to 1"),
        ("{maxdrop: 0.1}", "unknown key 'gate.maxdrop'; did you mean 'max_drop'?"),
    ],
)
def test_a_gate_that_cannot_be_is_refused_with_the_nearest_known(
    own_places: Path, gate: str, sentence: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        write_dataset(own_places, "wrong", f"source: {{type: digits}}\ngate: {gate}\n")
    assert sentence in str(refused.value)
