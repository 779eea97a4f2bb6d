"""The question to a person: what becomes of each answer, and when nobody is asked.

That a real Airflow asks it is shown in test_local_airflow.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from sightline import models
from sightline.catalog import Catalog
from sightline.operators import ApprovalStage
from sightline.orchestration import approval_stage
from tests.conftest import catalog_of, write_dataset

DECISION = {"chosen": "v1", "passed": True, "reasons": ["Too bad."], "approval": None}


class PlanOf:
    """A task instance whose plan is version v1."""

    def xcom_pull(self, task_ids: str) -> str:
        """What the task `plan` has returned."""
        assert task_ids == "plan"
        return "v1"


@pytest.fixture
def stage(own_places: Path) -> ApprovalStage:
    """The question of a dataset that asks for six hours."""
    gate = "{approval: true, approval_hours: 6}"
    return approval_stage(
        write_dataset(own_places, "photos", f"source: {{type: digits}}\ngate: {gate}\n")
    )


@pytest.fixture
def catalog(own_places: Path) -> Catalog:
    """Where the gate has let model v1 pass."""
    spec = write_dataset(own_places, "photos", "source: {type: digits}\n")
    models.write_decision(catalog_of(spec), "v1", DECISION)
    return catalog_of(spec)


def context(**more: Any) -> Any:
    return {"ti": PlanOf(), **more}


def answered(*chosen: str) -> dict[str, Any]:
    """What Airflow hands on of a person's answer."""
    at = datetime(2026, 11, 5, 8, tzinfo=UTC)
    user = {"id": "1", "name": "joe"}
    options = {"chosen_options": list(chosen), "params_input": {}}
    return {**options, "responded_at": at, "responded_by_user": user}


def test_nobody_is_asked_about_a_model_that_the_gate_has_refused(
    stage: ApprovalStage, catalog: Catalog
) -> None:
    models.write_decision(catalog, "v1", {**DECISION, "passed": False})
    assert stage.execute(context()) is None  # asking would need an Airflow
    decision = models.read_decision(catalog, "v1")
    assert decision is not None
    assert decision["approval"] is None


def test_an_answer_is_noted_with_who_gave_it(stage: ApprovalStage, catalog: Catalog) -> None:
    stage.execute_complete(context(), answered("Approve"))
    assert models.read_decision(catalog, "v1") == {
        **DECISION,
        "approval": {"answer": "Approve", "by": "joe", "at": "2026-11-05T08:00:00+00:00"},
    }


def test_an_answer_that_does_not_come_fails_in_one_sentence(
    stage: ApprovalStage, catalog: Catalog
) -> None:
    late = {"error": "no answer", "error_type": "timeout"}
    with pytest.raises(AirflowFailException, match="Nobody has answered within 6 hours, so the"):
        stage.execute_complete(context(), late)
    assert models.read_decision(catalog, "v1") == DECISION
