"""The REST client: logging in, waiting out hiccups, refusing in a sentence, reading logs bit by bit."""

import json
from collections.abc import Iterator
from datetime import date

import pytest

from sightline.airflow_client import AirflowClient, Run
from sightline.errors import AirflowUnavailable
from sightline.task_log import TaskLog
from tests.recorded_airflow import RecordedAirflow, serve

RUN = Run("ingest_x", "manual__2026-11-21T01:02:03+00:00", "running")
QUOTED = "manual__2026-11-21T01%3A02%3A03%2B00%3A00"
LOGS = f"GET /api/v2/dags/ingest_x/dagRuns/{QUOTED}/taskInstances/featurize/logs/1"


@pytest.fixture
def airflow() -> Iterator[RecordedAirflow]:
    with serve(RecordedAirflow()) as recorded:
        yield recorded


@pytest.fixture
def client(airflow: RecordedAirflow) -> Iterator[AirflowClient]:
    with AirflowClient(airflow.address, "secret") as client:
        yield client


def test_the_client_logs_in_once_and_again_when_its_token_has_expired(
    airflow: RecordedAirflow, client: AirflowClient
) -> None:
    airflow.answers["GET /api/v2/dags/x"] = [(200, {}), (401, {}), (200, {"dag_id": "x"})]
    client.find_dag("x")
    assert client.find_dag("x") == {"dag_id": "x"}
    assert airflow.asked.count("POST /auth/token") == 2
    assert airflow.tokens[-1] == "Bearer token-2"


def test_a_dag_that_airflow_does_not_know_is_none(client: AirflowClient) -> None:
    assert client.find_dag("x") is None


def test_a_read_is_repeated_after_a_server_error_and_a_backfill_is_not(
    airflow: RecordedAirflow, client: AirflowClient
) -> None:
    airflow.answers["GET /api/v2/dags/x"] = [(500, {}), (200, {"dag_id": "x"})]
    airflow.answers["POST /api/v2/backfills"] = [(500, {"detail": "database is locked"})]
    assert client.find_dag("x") == {"dag_id": "x"}
    with pytest.raises(AirflowUnavailable, match="database is locked"):
        client.create_backfill("x", date(2026, 11, 5), date(2026, 11, 6), "failed")
    assert airflow.asked.count("POST /api/v2/backfills") == 1


def test_a_trigger_is_repeated_under_its_name_and_looked_for_where_it_was_done_already(
    airflow: RecordedAirflow, client: AirflowClient
) -> None:
    locked, done = (500, {"detail": "database is locked"}), (409, {"detail": "exists already"})
    made = {"dag_id": "x", "dag_run_id": "manual__1", "state": "queued"}
    airflow.answers["POST /api/v2/dags/x/dagRuns"] = [locked, (200, made), locked, done]
    assert client.trigger("x", None) == Run("x", "manual__1", "queued")
    with pytest.raises(AirflowUnavailable, match=r"refused GET /api/v2/dags/x/dagRuns/manual__"):
        client.trigger("x", None)  # of which this server knows nothing
    names = [json.loads(body)["dag_run_id"] for body in airflow.bodies if b"dag_run_id" in body]
    assert names[0] == names[1] != names[2] == names[3]


def test_a_server_that_does_not_answer_is_named_in_the_sentence() -> None:
    with AirflowClient("http://127.0.0.1:9", "secret") as client:
        client.hurry()
        with pytest.raises(AirflowUnavailable, match="127.0.0.1:9 does not answer"):
            client.find_dag("x")


def test_a_run_id_is_quoted_in_the_address(airflow: RecordedAirflow, client: AirflowClient) -> None:
    state = {"dag_id": RUN.dag_id, "dag_run_id": RUN.run_id, "state": "success"}
    airflow.answers[f"GET /api/v2/dags/ingest_x/dagRuns/{QUOTED}"] = [(200, state)]
    assert client.run(RUN.dag_id, RUN.run_id).is_well


def test_tasks_stand_after_those_they_wait_for(
    airflow: RecordedAirflow, client: AirflowClient
) -> None:
    tasks = [("b", ["c"]), ("c", []), ("a", ["b"])]
    listed = [{"task_id": name, "downstream_task_ids": after} for name, after in tasks]
    airflow.answers["GET /api/v2/dags/x/tasks"] = [(200, {"tasks": listed})]
    assert client.task_order("x") == ["a", "b", "c"]


def test_the_training_is_found_by_the_ingest_that_started_it(
    airflow: RecordedAirflow, client: AirflowClient
) -> None:
    started = [{"dag_id": "train_x", "run_id": "t1"}, {"dag_id": "other", "run_id": "o1"}]
    airflow.answers["GET /api/v2/assets/events"] = [
        (200, {"asset_events": [{"created_dagruns": started}]})
    ]
    train = {"dag_id": "train_x", "dag_run_id": "t1", "state": "queued"}
    airflow.answers["GET /api/v2/dags/train_x/dagRuns/t1"] = [(200, train)]
    assert client.runs_started_by(RUN, "train_x") == [Run("train_x", "t1", "queued")]
    assert f"source_run_id={QUOTED}" in airflow.asked[1]


def test_a_log_is_read_on_from_where_the_last_reading_ended(
    airflow: RecordedAirflow, client: AirflowClient
) -> None:
    first = {"event": "progress featurize: 3/10 images, 1.5 a second, 5 s left", "logger": "x"}
    airflow.answers[LOGS] = [
        (200, {"content": [first], "continuation_token": "here"}),
        (200, {"content": [{"event": "more", "logger": "x"}], "continuation_token": None}),
    ]
    log = TaskLog(RUN, "featurize", 1)
    log.read_on(client)
    log.read_on(client)
    assert airflow.asked[-1].endswith("?token=here")
    assert [line.text for line in log.lines] == [first["event"], "more"]
    assert log.report is not None
    assert (log.report.done, log.report.total) == (3, 10)


def test_a_log_that_has_not_begun_is_empty(client: AirflowClient) -> None:
    log = TaskLog(RUN, "featurize", 1)
    log.read_on(client)
    assert not log.lines
