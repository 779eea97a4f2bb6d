"""Alerts: who is told what, by real servers; nothing that fails in telling harms a run."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from sightline import alerting
from sightline.alert_config import Alert, parse_alerts
from sightline.errors import ConfigError
from tests.conftest import write_dataset
from tests.servers.alerts import Mailbox, Webhook, mail_server, webhook_server

ALERT = Alert("failure", "ingest_flowers", "nightly <1>", "Task featurize failed.", "http://run")


@dataclass
class Task:
    """What an alert asks of a task instance."""

    task_id: str
    dag_id: str = "train_flowers"
    run_id: str = "r1"
    try_number: int = 4
    log_url: str = "http://127.0.0.1:8080/log"


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    with mail_server() as mailbox:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", mailbox.connection())
        yield mailbox


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with webhook_server() as webhook:
        monkeypatch.setenv("AIRFLOW_CONN_SIGHTLINE_WEBHOOK", webhook.connection())
        yield webhook


def configure(monkeypatch: pytest.MonkeyPatch, *receivers: dict[str, Any]) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_SIGHTLINE_ALERTS", json.dumps(receivers))


def test_a_mail_and_a_webhook_tell_the_same(
    monkeypatch: pytest.MonkeyPatch, mailbox: Mailbox, webhook: Webhook
) -> None:
    configure(monkeypatch, {"email": "team@example.org"}, {"webhook": "sightline_webhook"})
    alerting.send(ALERT)
    (mail,) = mailbox.mails
    assert (mail["To"], mail["Subject"]) == (
        "team@example.org",
        "Sightline: ingest_flowers failed",
    )
    assert mail["From"] == "sightline@example.org"
    (page,) = [part.get_payload(decode=True) for part in mail.walk() if not part.is_multipart()]
    assert b"Task featurize failed.<br>" in page
    assert b"nightly &lt;1&gt;" in page
    assert webhook.texts == [
        "Sightline: ingest_flowers failed\nTask featurize failed.\nRun nightly <1>\nhttp://run"
    ]


def test_any_notifier_is_chosen_by_its_class_and_its_arguments_are_templates(
    monkeypatch: pytest.MonkeyPatch, webhook: Webhook
) -> None:
    host, _, path = webhook.address.removeprefix("http://").partition("/")
    monkeypatch.setenv("AIRFLOW_CONN_CHAT", f"http://{host}")
    arguments = {"http_conn_id": "chat", "endpoint": path, "json": {"text": "{{ alert.run_id }}!"}}
    notifier = "airflow.providers.http.notifications.http.HttpNotifier"
    configure(monkeypatch, {"notifier": notifier, "arguments": arguments})
    alerting.send(ALERT)
    assert webhook.texts == ["nightly <1>!"]


@pytest.mark.parametrize(
    ("receiver", "told"),
    [
        ({}, True),
        ({"on": ["late", "gate"]}, False),
        ({"on": ["failure"], "datasets": ["flowers"]}, True),
        ({"datasets": ["digits"]}, False),
    ],
)
def test_a_receiver_is_told_what_it_wants_to_know(
    monkeypatch: pytest.MonkeyPatch, webhook: Webhook, receiver: dict[str, Any], told: bool
) -> None:
    configure(monkeypatch, {"webhook": "sightline_webhook", **receiver})
    alerting.send(ALERT)
    assert bool(webhook.texts) == told


def test_a_receiver_that_fails_keeps_no_other_from_being_told_and_its_address_is_kept_secret(
    monkeypatch: pytest.MonkeyPatch, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_GONE", '{"conn_type": "http", "password": "http://127.0.0.1:9/secret-path"}'
    )
    webhook.status = 500
    gone, wrong = {"webhook": "gone"}, {"notifier": "sightline.nothing.Notifier"}
    configure(monkeypatch, gone, wrong, {"webhook": "sightline_webhook"})
    with caplog.at_level(logging.INFO):
        alerting.send(ALERT)
    assert len(webhook.texts) == 1
    assert "webhook of connection gone cannot be reached: ConnectError" in caplog.text
    assert "There is no notifier sightline.nothing.Notifier" in caplog.text
    assert "webhook of connection sightline_webhook answered 500" in caplog.text
    assert "secret-path" not in caplog.text


def test_a_refusal_of_publish_is_the_gate_s_and_every_other_failure_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, webhook: Webhook
) -> None:
    configure(monkeypatch, {"webhook": "sightline_webhook"})
    refusal = AirflowFailException("accuracy 0.91 is below the champion's 0.95")
    alerting.alert_failure({"ti": Task("publish"), "exception": refusal})
    alerting.alert_failure({"ti": Task("publish"), "exception": OSError("disk")})
    alerting.alert_failure({"ti": Task("featurize")})
    first = [text.splitlines()[:2] for text in webhook.texts]
    assert first == [
        [
            "Sightline: train_flowers was refused by its gate",
            "Task publish failed at try 4: accuracy 0.91 is below the champion's 0.95",
        ],
        ["Sightline: train_flowers failed", "Task publish failed at try 4: disk"],
        [
            "Sightline: train_flowers failed",
            "Task featurize failed at try 4: Its process was killed or lost.",
        ],
    ]


def test_a_late_night_is_told_and_a_backfill_is_never_late(
    monkeypatch: pytest.MonkeyPatch, webhook: Webhook
) -> None:
    configure(monkeypatch, {"webhook": "sightline_webhook"})
    run = {"dag_id": "ingest_flowers", "dag_run_id": "r1", "partition_key": "2026-11-05"}
    deadline = {"deadline_time": "2026-11-06T06:00:00+00:00"}
    for kind in ("scheduled", "backfill"):
        alerting.alert_late({"dag_run": {**run, "run_type": kind}, "deadline": deadline})
    (text,) = webhook.texts
    assert text.splitlines()[:2] == [
        "Sightline: ingest_flowers is late",
        "The run of 2026-11-05 should have ended by 2026-11-06T06:00:00+00:00, and has not.",
    ]


def test_a_dataset_says_when_its_night_is_late(own_places: Any) -> None:
    source = "source: {type: digits}\n"
    late = alerting.lateness(write_dataset(own_places, "a", f"{source}late_after_hours: 2.5\n"))
    assert late is not None
    assert late.interval.total_seconds() == 9000
    assert late.callback.path == "sightline.alerting.alert_late"
    for text in ("late_after_hours: null\n", "schedule: null\n"):
        assert alerting.lateness(write_dataset(own_places, "b", source + text)) is None


@pytest.mark.parametrize("text", [None, "", "  ", "[]"])
def test_without_receivers_nobody_is_told(text: str | None) -> None:
    assert parse_alerts(text) == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[{}]", "give one of email, webhook and notifier"),
        ('[{"email": "a@b", "webhook": "c"}]', "give one of"),
        ('[{"email": "a@b", "on": ["never"]}]', "wrong at 0.on.0"),
        ('[{"mail": "a@b"}]', "wrong at 0.mail"),
    ],
)
def test_a_wrong_variable_is_refused_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_alerts(text)


def test_a_wrong_variable_harms_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_SIGHTLINE_ALERTS", "[{}]")
    alerting.send(ALERT)
    assert "nobody is alerted: The Airflow variable sightline_alerts is wrong" in caplog.text
