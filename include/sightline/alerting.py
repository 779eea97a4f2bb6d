"""Alerts through Airflow's notifiers: a task has failed for good, a nightly run is late, a gate has refused.

Airflow calls these in the task's process, in the DAG processor where that process was lost, and by an
executor for deadlines; of a process that was killed in its last try it tells nobody. One receiver that
cannot be reached keeps no other from being told, and fails no run.
"""

import logging
from collections.abc import Mapping
from datetime import timedelta
from importlib import import_module
from typing import Any

import httpx
from airflow.sdk import (  # type: ignore[attr-defined]  # its stub lacks the deadlines
    BaseNotifier,
    Connection,
    DeadlineAlert,
    DeadlineReference,
    SyncCallback,
    Variable,
)
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.log import redact  # type: ignore[attr-defined]

from sightline.alert_config import VARIABLE, Alert, AlertSpec, parse_alerts
from sightline.config import DatasetSpec
from sightline.errors import ConfigError, SightlineError

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 20


def alert_failure(context: Any) -> None:
    """A task has failed for good: tell who wants to know. What publish refuses is the gate's refusal."""
    ti, error = context["ti"], context.get("exception")
    refused = ti.task_id == "publish" and isinstance(error, AirflowFailException)
    text = str(error or context.get("reason") or "Its process was killed or lost.")
    sentence = f"Task {ti.task_id} failed at try {ti.try_number}: {text}"
    url = str(getattr(ti, "log_url", None) or "")
    send(Alert("gate" if refused else "failure", ti.dag_id, ti.run_id, sentence, url))


def alert_late(context: Any) -> None:
    """A run has not ended by its deadline; a backfill's runs wait for each other and are not late."""
    run, deadline = context["dag_run"], context["deadline"]
    if run["run_type"] == "backfill":
        return
    partition = f" of {run['partition_key']}" if run.get("partition_key") else ""
    sentence = f"The run{partition} should have ended by {deadline['deadline_time']}, and has not."
    send(Alert("late", run["dag_id"], run["dag_run_id"], sentence))


def lateness(spec: DatasetSpec) -> DeadlineAlert | None:
    """When a night's run of a dataset is late; None where it has no schedule or no deadline."""
    if not spec.schedule or spec.late_after_hours is None:
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=spec.late_after_hours),
        callback=SyncCallback(alert_late),
        name=f"{spec.name} is late",
    )


def send(alert: Alert) -> None:
    """Tell each receiver who wants to know; what fails is logged."""
    try:
        receivers = parse_alerts(Variable.get(VARIABLE, default=None))
    except ConfigError as error:
        log.error("nobody is alerted: %s", error)
        return
    masked = Alert(alert.kind, alert.dag_id, alert.run_id, str(redact(alert.sentence)), alert.url)
    for receiver in receivers:
        if receiver.wants(masked):
            _notify(receiver, masked)


def _notify(receiver: AlertSpec, alert: Alert) -> None:
    path, arguments = receiver.path_and_arguments()
    try:
        load_notifier(path)(**arguments)({"alert": alert})
    except Exception as error:  # any notifier, any failure: the next receiver is told all the same
        reason = str(error) if isinstance(error, SightlineError) else type(error).__name__
        log.error("%s did not send the alert %r: %s", path, alert.subject, reason)
    else:
        log.info("sent the alert %r by %s", alert.subject, path)


def load_notifier(path: str) -> Any:
    """A notifier's class by its path; ConfigError where there is none."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ConfigError(
            f"There is no notifier {path}; install its Airflow provider or correct {VARIABLE}."
        ) from None


class WebhookNotifier(BaseNotifier):
    """Posts {"text": ...}, which Slack, Mattermost and others take, to the address that a connection keeps as
    its password: an address of that kind is a secret.
    """

    def __init__(self, connection: str) -> None:
        super().__init__()
        self.connection = connection

    def notify(self, context: Mapping[str, Any]) -> None:
        """Send it; ConfigError never holds the address."""
        address = Connection.get(self.connection).password
        if not address:
            raise ConfigError(
                f"Connection {self.connection} has no password, which is the address."
            )
        try:
            answer = httpx.post(
                address, json={"text": context["alert"].text}, timeout=TIMEOUT_SECONDS
            )
        except httpx.HTTPError as error:
            raise ConfigError(
                f"The webhook of connection {self.connection} cannot be reached: {type(error).__name__}."
            ) from None
        if answer.is_error:
            raise ConfigError(
                f"The webhook of connection {self.connection} answered {answer.status_code}."
            )
