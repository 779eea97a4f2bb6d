"""The search over training settings: within its budget, repeatable, and gone on where it broke off."""

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from sightline import storage
from sightline.config import BackboneSpec
from sightline.fine_tune_config import FineTuneSpec, PhaseSpec, SearchSpec
from sightline.fine_tuning.checkpoints import Epoch
from sightline.fine_tuning.search import apply, search

BACKBONE = BackboneSpec(weights="random", image_size=32)
ASKED = SearchSpec(
    trials=12, learning_rate=(1e-5, 1e-1), optimizer=("sgd", "adamw"), image_size=(32, 64)
)
PLAN = FineTuneSpec(learning_rate=1e-3, epochs=7)


class Trainer:
    """A training whose accuracy depends on its settings alone, best at a rate of 0.01 with sgd."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.tried: list[tuple[FineTuneSpec, BackboneSpec, str]] = []
        self.fails_at = fails_at

    def __call__(self, fine_tune: FineTuneSpec, backbone: BackboneSpec, folder: str) -> list[Epoch]:
        if len(self.tried) == self.fails_at:
            raise ConnectionError("lost")
        self.tried.append((fine_tune, backbone, folder))
        storage.write_bytes(storage.join(folder, "checkpoint"), b"x")
        accuracy = 0.9 - 0.1 * abs(math.log10(fine_tune.learning_rate) + 2)
        accuracy -= 0.05 * (fine_tune.optimizer != "sgd")
        return [Epoch(1, 0.5, 0.5, 1 - accuracy, accuracy, 1e-3, 10.0, 1.0)]


def test_the_best_trial_is_taken_and_its_settings_only(tmp_path: Path) -> None:
    trainer = Trainer()
    found = search(ASKED, PLAN, BACKBONE, str(tmp_path / "search"), trainer)
    assert len(found.trials) == len(trainer.tried) == 12
    best = max(found.trials, key=lambda trial: trial.validation_accuracy)
    assert found.fine_tune.learning_rate == best.settings["learning_rate"]
    assert found.fine_tune.optimizer == "sgd"
    assert found.fine_tune.epochs == 7
    assert found.backbone.image_size == best.settings["image_size"]
    assert {tried.epochs for tried, _, _ in trainer.tried} == {1}
    assert all(1e-5 <= trial.settings["learning_rate"] <= 1e-1 for trial in found.trials)
    assert storage.list_names(str(tmp_path / "search")) == [
        "search.json"
    ]  # the trials' own files are gone


def test_a_search_that_broke_off_repeats_no_trial(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        search(ASKED, PLAN, BACKBONE, str(tmp_path / "search"), Trainer(fails_at=5))
    again = Trainer()
    found = search(ASKED, PLAN, BACKBONE, str(tmp_path / "search"), again)
    assert len(again.tried) == 7
    assert len(found.trials) == 12
    done = Trainer()
    assert search(ASKED, PLAN, BACKBONE, str(tmp_path / "search"), done) == found
    assert not done.tried


def test_no_trial_begins_when_the_minutes_are_spent(tmp_path: Path) -> None:
    asked = ASKED.model_copy(update={"minutes": 1e-9})
    trainer = Trainer()
    search(asked, PLAN, BACKBONE, str(tmp_path / "search"), trainer)
    assert len(trainer.tried) == 1


def test_phases_keep_the_proportions_of_their_rates() -> None:
    phases = tuple(
        PhaseSpec(trainable="head", epochs=1, learning_rate=rate) for rate in (1e-3, 1e-4)
    )
    plan = PLAN.model_copy(update={"phases": phases})
    tuned, _ = apply({"learning_rate": 2e-3}, plan, BACKBONE)
    assert [phase.learning_rate for phase in tuned.phases] == pytest.approx([2e-3, 2e-4])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "name what to try: learning_rate, optimizer"),
        ({"learning_rate": (0.1, 0.1)}, "learning_rate must rise, but is 0.1 to 0.1"),
        ({"optimizer": ("lion",)}, "Input should be 'sgd'"),
        ({"trials": 1, "batch_size": (8,)}, "greater than or equal to 2"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        SearchSpec.model_validate(settings)
