"""Alerts by a real Airflow: a task fails, a night is late, a gate refuses."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline.airflow_client import AirflowClient
from tests.servers.alerts import Mailbox, Webhook, mail_server, webhook_server
from tests.test_local_airflow import Command, record, start, wait_until

pytestmark = pytest.mark.end_to_end

TOYS = '''
"""Three DAGs that go wrong, each in its own way."""
import time
from datetime import timedelta
from airflow.sdk import DAG, CronPartitionTimetable, task
from airflow.sdk.exceptions import AirflowFailException
from sightline.alerting import lateness
from sightline.config import load_dataset
from sightline.orchestration import RETRIES

NIGHTLY = CronPartitionTimetable(
    "0 0 * * *", timezone="UTC", key_format="%Y-%m-%d", run_offset=-1, run_immediately=timedelta(0)
)
QUICK = {**RETRIES, "retries": 1, "retry_delay": timedelta(seconds=1)}
NEW = {"is_paused_upon_creation": False, "catchup": False}

with DAG("ingest_failing", schedule=NIGHTLY, default_args=QUICK, **NEW):

    @task
    def fetch_images():
        raise OSError("the line was cut")

    fetch_images()

with DAG("train_refused", schedule=NIGHTLY, default_args=QUICK, **NEW):

    @task
    def publish():
        raise AirflowFailException("accuracy 0.91 is below the champion's 0.95")

    publish()

late = lateness(load_dataset("late"))
with DAG("ingest_late", schedule=NIGHTLY, deadline=late, default_args=QUICK, **NEW):

    @task
    def wait():
        time.sleep(45)

    wait()
'''
LATE = "source: {type: digits}\nlate_after_hours: 0.002\n"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Webhook, Mailbox, Command]]:
    """What a webhook and a mailbox get of an Airflow with these DAGs."""
    places = tmp_path_factory.mktemp("alerts")
    for name in ("dags", "datasets", "data"):
        (places / name).mkdir()
    (places / "dags" / "toys.py").write_text(TOYS)
    (places / "datasets" / "late.yaml").write_text(LATE)
    receivers = [{"webhook": "sightline_webhook"}, {"email": "team@example.org", "on": ["gate"]}]
    with (
        webhook_server() as webhook,
        mail_server() as mailbox,
        pytest.MonkeyPatch.context() as here,
    ):
        here.setenv("AIRFLOW_CONN_SIGHTLINE_WEBHOOK", webhook.connection())
        here.setenv("AIRFLOW_CONN_SMTP_DEFAULT", mailbox.connection())
        here.setenv("AIRFLOW_VAR_SIGHTLINE_ALERTS", json.dumps(receivers))
        up = start(places, "up")
        try:
            wait_until(lambda: "Ctrl-C" in up.said or up.process.poll() is not None, "start")
            for dag_id in ("ingest_failing", "train_refused", "ingest_late"):
                trigger(places, dag_id)
            yield webhook, mailbox, up
        finally:
            up.process.terminate()
            up.wait()
            secret = webhook.address.rsplit("/", 1)[1]
            assert not [log for log in logs(places) if secret in log.read_text(errors="replace")]


def trigger(places: Path, dag_id: str) -> None:
    """Start a run of a day, as soon as the DAG is known."""
    password = json.loads((places / "state" / "airflow" / "passwords.json").read_text())["admin"]
    with AirflowClient(f"http://127.0.0.1:{record(places)['port']}", password) as client:
        wait_until(lambda: client.find_dag(dag_id) is not None, dag_id)
        client.trigger(dag_id, "2026-11-05")


def logs(places: Path) -> list[Path]:
    """Every log of the Airflow."""
    folder = places / "state" / "airflow"
    return [path for path in folder.rglob("*.log") if os.access(path, os.R_OK)]


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        ("ingest_failing failed", "Task fetch_images failed at try 2: the line was cut"),
        ("train_refused was refused by its gate", "accuracy 0.91 is below the champion's 0.95"),
        ("ingest_late is late", r"The run of 2026-11-05 should have ended by .+, and has not"),
    ],
)
def test_each_is_told_once(
    told: tuple[Webhook, Mailbox, Command], subject: str, sentence: str
) -> None:
    webhook, _, _ = told
    wait_until(lambda: any(f"Sightline: {subject}\n" in text for text in webhook.texts), subject)
    (text,) = [text for text in webhook.texts if text.startswith(f"Sightline: {subject}\n")]
    assert re.search(sentence, text), text


def test_a_receiver_of_one_kind_is_told_of_that_kind_alone(
    told: tuple[Webhook, Mailbox, Command],
) -> None:
    _, mailbox, _ = told
    wait_until(lambda: bool(mailbox.mails), "the mail")
    subjects = {mail["Subject"] for mail in mailbox.mails}
    assert subjects == {"Sightline: train_refused was refused by its gate"}
