"""Publishing: who may serve, how the champion goes back, and what no run brings back."""

from pathlib import Path
from typing import Any

import pytest

from sightline import models, storage
from sightline.catalog import Catalog
from sightline.config import DatasetSpec, GateSpec
from sightline.errors import CheckFailed, ConfigError, TrainingError
from sightline.ledger import Record
from sightline.models import Plan, make_plan
from sightline.publishing import (
    nothing_new,
    promote,
    publish,
    rejection,
    roll_back,
    succession,
)
from tests.conftest import make_task, write_dataset


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    return write_dataset(own_places, "photos", "source: {type: folder, path: photos}\n")


def model_of(version: str, accuracy: float = 0.9) -> dict[str, Any]:
    return {
        "version": version,
        "fingerprint": f"of {version}",
        "labels": ["a", "b"],
        "metrics": {"accuracy": accuracy},
    }


def plan_of(version: str) -> Plan:
    return Plan(version, "made-up", 1, 1, f"of {version}")


def judged(catalog: Catalog, version: str, **more: Any) -> Plan:
    """A model that the gate lets pass beside the champion of now."""
    models.write_model(catalog, model_of(version))
    decision = {
        "chosen": version,
        "passed": True,
        "reasons": ["It is better."],
        "candidates": [model_of(version)],
        "champion": models.read_champion(catalog),
        "gate": GateSpec().model_dump(mode="json"),
        "approval": None,
    }
    models.write_decision(catalog, version, {**decision, **more})
    return plan_of(version)


def published(catalog: Catalog, *versions: str) -> Record:
    """Models that became champion, one after the other."""
    for version in versions:
        record = make_task("publish")[1]
        publish(catalog, record, judged(catalog, version))
    return record


def champion(catalog: Catalog) -> str | None:
    found = models.read_champion(catalog)
    return found and found["version"]


def test_a_model_that_passes_serves_and_the_history_says_since_when(catalog: Catalog) -> None:
    record = published(catalog, "v1", "v2")
    assert champion(catalog) == "v2"
    assert record.counts == {"accuracy": 0.9, "version": "v2"}
    first, second = models.champion_history(catalog)
    assert (first["version"], first["previous"], first["action"]) == ("v1", None, "published")
    assert (second["version"], second["previous"]) == ("v2", "v1")
    assert (second["by"], second["reason"]) == ("gate", "It is better.")
    assert first["at"] <= second["at"]


def test_publishing_twice_changes_nothing(catalog: Catalog) -> None:
    published(catalog, "v1")
    before = storage.read_json(catalog.champion)
    publish(catalog, make_task("publish")[1], plan_of("v1"))
    assert storage.read_json(catalog.champion) == before


def test_the_chosen_candidate_serves_not_the_plan_s_own(catalog: Catalog) -> None:
    models.write_model(catalog, model_of("v1-tuned", 0.95))
    tuned = [model_of("v1"), model_of("v1-tuned", 0.95)]
    plan = judged(catalog, "v1", chosen="v1-tuned", candidates=tuned)
    _, record = make_task("publish")
    publish(catalog, record, plan)
    assert champion(catalog) == "v1-tuned"
    assert record.counts["accuracy"] == 0.95


def test_what_the_gate_refused_does_not_serve_and_the_sentence_says_why(catalog: Catalog) -> None:
    published(catalog, "v1")
    plan = judged(catalog, "v2", passed=False, reasons=["Its accuracy is below gate.min."])
    with pytest.raises(CheckFailed, match="v2 of photos is not published: Its accuracy is below"):
        publish(catalog, make_task("publish")[1], plan)
    assert champion(catalog) == "v1"


def test_what_was_not_judged_does_not_serve(catalog: Catalog) -> None:
    models.write_model(catalog, model_of("v1"))
    with pytest.raises(TrainingError, match="v1 has not been judged; clear task gate"):
        publish(catalog, make_task("publish")[1], plan_of("v1"))
    assert champion(catalog) is None


def test_what_a_person_approved_or_rejected_stands_in_history_or_stays_out(
    catalog: Catalog,
) -> None:
    answer = {"by": "joe", "at": "2026-11-05T08:00:00+00:00"}
    plan = judged(catalog, "v1", approval={**answer, "answer": "Approve"})
    publish(catalog, make_task("publish")[1], plan)
    assert models.champion_history(catalog)[0]["by"] == "joe"
    assert rejection(catalog, plan) is None
    plan = judged(catalog, "v2", approval={**answer, "answer": "Reject"})
    said = rejection(catalog, plan)
    assert said is not None
    assert said.startswith("Model v2 was rejected by joe on 2026-11-05T08:00:00+00:00; clear")
    with pytest.raises(CheckFailed, match="it was rejected by joe on 2026-11-05T08"):
        publish(catalog, make_task("publish")[1], plan)
    assert champion(catalog) == "v1"


def test_a_decision_beside_another_champion_is_out_of_date(catalog: Catalog) -> None:
    published(catalog, "v1")
    plan = judged(catalog, "v2")
    published(catalog, "v3")
    with pytest.raises(CheckFailed, match="compared with champion v1, and now v3 serves; clear"):
        publish(catalog, make_task("publish")[1], plan)
    assert champion(catalog) == "v3"


def test_rolling_back_goes_one_champion_back_each_time(catalog: Catalog) -> None:
    published(catalog, "v1", "v2", "v3")
    assert roll_back(catalog, None, "joe", "blurred") == ("v3", "v2")
    assert champion(catalog) == "v2"
    assert models.champion_history(catalog)[-1]["reason"] == "blurred"
    assert roll_back(catalog, None, "joe", "") == ("v2", "v1")
    with pytest.raises(TrainingError, match="Champion v1 of photos follows no other"):
        roll_back(catalog, None, "joe", "")
    assert champion(catalog) == "v1"


def test_rolling_back_goes_to_any_earlier_champion_and_forth_again(catalog: Catalog) -> None:
    published(catalog, "v1", "v2", "v3")
    assert roll_back(catalog, "v1", "joe", "") == ("v3", "v1")
    assert set(succession(models.champion_history(catalog)).withdrawn) == {"v2", "v3"}
    assert roll_back(catalog, "v3", "joe", "it was the camera") == ("v1", "v3")
    past = succession(models.champion_history(catalog))
    assert past.line == ["v1", "v3"]
    assert set(past.withdrawn) == {"v2"}


def test_a_rolling_back_that_cannot_be_is_one_sentence(catalog: Catalog) -> None:
    with pytest.raises(TrainingError, match="photos has no champion; run train_photos"):
        roll_back(catalog, None, "joe", "")
    published(catalog, "v1", "v2")
    with pytest.raises(ConfigError, match="'v9' was never champion of photos. Known: v1, v2."):
        roll_back(catalog, "v9", "joe", "")
    with pytest.raises(ConfigError, match="v2 is the champion of photos already"):
        roll_back(catalog, "v2", "joe", "")
    storage.remove_tree(catalog.model("v1"))
    with pytest.raises(TrainingError, match="v1 of photos is no longer on storage"):
        roll_back(catalog, None, "joe", "")
    assert champion(catalog) == "v2"


def test_no_run_publishes_again_what_was_rolled_back(catalog: Catalog) -> None:
    published(catalog, "v1", "v2")
    roll_back(catalog, None, "joe", "blurred")
    with pytest.raises(
        CheckFailed, match=r"v2, which joe rolled back on .* \(blurred\); 'sightline roll"
    ):
        publish(catalog, make_task("publish")[1], plan_of("v2"))
    with pytest.raises(CheckFailed, match="rolled back"):  # nor where the gate judges it anew
        publish(catalog, make_task("publish")[1], judged(catalog, "v2"))
    assert champion(catalog) == "v1"
    published(catalog, "v3")
    assert champion(catalog) == "v3"


def test_a_champion_from_before_there_was_a_history_is_its_first(catalog: Catalog) -> None:
    models.write_model(catalog, model_of("v1"))
    storage.write_json(catalog.champion, {"version": "v1"})
    published(catalog, "v2")
    assert roll_back(catalog, None, "joe", "") == ("v2", "v1")


def test_the_champion_s_own_inputs_are_nothing_new(spec: DatasetSpec, catalog: Catalog) -> None:
    plan = make_plan(spec, catalog, "one")
    assert nothing_new(spec, catalog, plan) is None
    models.write_model(catalog, {**model_of(plan.version), "fingerprint": plan.fingerprint})
    models.crown(catalog, plan.version)
    said = nothing_new(spec, catalog, plan)
    assert said is not None
    assert said.startswith(f"Nothing new: champion {plan.version} (accuracy 0.9000) was trained on")
    assert nothing_new(spec, catalog, make_plan(spec, catalog, "other")) is None


def test_what_was_rolled_back_is_not_trained_again(spec: DatasetSpec, catalog: Catalog) -> None:
    plan = make_plan(spec, catalog, "one")
    published(catalog, "v1", plan.version)
    roll_back(catalog, None, "joe", "blurred")
    said = nothing_new(spec, catalog, plan)
    assert said is not None
    assert f"made model {plan.version}, which joe rolled back on" in said
    assert f"'sightline rollback photos --to {plan.version}' lets it serve again." in said
    roll_back(catalog, plan.version, "joe", "")
    said = nothing_new(spec, catalog, Plan(**{**vars(plan), "fingerprint": f"of {plan.version}"}))
    assert said is not None
    assert "champion" in said


def test_what_was_refused_is_trained_again_only_on_other_terms(
    spec: DatasetSpec, catalog: Catalog
) -> None:
    published(catalog, "v1")
    plan = make_plan(spec, catalog, "one")
    judged(catalog, plan.version, passed=False, reasons=["Too bad."])
    said = nothing_new(spec, catalog, plan)
    assert said == f"Nothing new: the gate has refused model {plan.version} already. Too bad."
    milder = spec.model_copy(update={"gate": GateSpec(max_drop=0.5)})
    assert nothing_new(milder, catalog, plan) is None
    published(catalog, "v2")
    assert nothing_new(spec, catalog, plan) is None


def test_what_a_person_rejected_is_not_offered_again(spec: DatasetSpec, catalog: Catalog) -> None:
    plan = make_plan(spec, catalog, "one")
    judged(catalog, plan.version)
    assert nothing_new(spec, catalog, plan) is None  # nobody has answered yet
    answer = {"answer": "Reject", "by": "joe", "at": "2026-11-05T08:00:00+00:00"}
    judged(catalog, plan.version, approval=answer)
    said = nothing_new(spec, catalog, plan)
    assert said == (
        f"Nothing new: model {plan.version} was rejected by joe on 2026-11-05T08:00:00+00:00; "
        "clear task approve to be asked again."
    )


def test_a_person_promotes_a_model_that_the_gate_did_not_choose(catalog: Catalog) -> None:
    published(catalog, "v1", "v2")
    models.write_model(catalog, model_of("v3"))
    models.write_model(catalog, {**model_of("v4"), "metrics": {}})
    with pytest.raises(ConfigError, match="Say why model v3 is to serve"):
        promote(catalog, "v3", "ann", "  ")
    with pytest.raises(ConfigError, match="has no model 'v9'; 'sightline models photos'"):
        promote(catalog, "v9", "ann", "because")
    with pytest.raises(TrainingError, match="v4 has not been evaluated"):
        promote(catalog, "v4", "ann", "because")
    assert champion(catalog) == "v2"
    assert promote(catalog, "v1", "ann", "v2 is slow") == "v2"  # it was champion: a roll back
    past = succession(models.champion_history(catalog))
    assert (past.line, list(past.withdrawn)) == (["v1"], ["v2"])
