"""Who is told what: the Airflow variable `sightline_alerts`, a JSON list checked at the door.

    [{"email": "team@example.org", "on": ["failure", "late"]},
     {"webhook": "sightline_webhook", "datasets": ["flowers"]},
     {"notifier": "airflow.providers.slack.notifications.slack.SlackNotifier",
      "arguments": {"slack_conn_id": "slack_default", "text": "{{ alert.text }}"}}]

A notifier's arguments are Jinja templates as everywhere in Airflow; `alert` has the fields of `Alert`.
"""

import html
import json
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pydantic import TypeAdapter, ValidationError, model_validator

from sightline.errors import ConfigError
from sightline.source_config import Section

VARIABLE = "sightline_alerts"
Kind = Literal["failure", "late", "gate"]
SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
WEBHOOK = "sightline.alerting.WebhookNotifier"


@dataclass(frozen=True)
class Alert:
    """What is told."""

    kind: Kind
    dag_id: str
    run_id: str
    sentence: str
    url: str = ""  # of the run or task in Airflow's UI

    @property
    def dataset(self) -> str:
        """The dataset of the DAG, as ingest_<dataset> names it; empty for DAGs of no dataset."""
        return self.dag_id.partition("_")[2]

    @property
    def subject(self) -> str:
        """One short line."""
        what = {"failure": "failed", "late": "is late", "gate": "was refused by its gate"}[
            self.kind
        ]
        return f"Sightline: {self.dag_id} {what}"

    @property
    def text(self) -> str:
        """The whole of it."""
        return "\n".join(
            filter(None, [self.subject, self.sentence, f"Run {self.run_id}", self.url])
        )

    @property
    def page(self) -> str:
        """The text as HTML."""
        return html.escape(self.text).replace("\n", "<br>\n")


class AlertSpec(Section):
    """One receiver: an address, a webhook's connection, or any notifier of Airflow by its class's path."""

    email: str | None = None
    webhook: str | None = None  # a connection whose password is the address to post to
    notifier: str | None = None
    arguments: dict[str, Any] = {}
    on: tuple[Kind, ...] = get_args(Kind)
    datasets: tuple[str, ...] = ()  # none: all

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(one is not None for one in (self.email, self.webhook, self.notifier)) != 1:
            raise ValueError("give one of email, webhook and notifier")
        return self

    def wants(self, alert: Alert) -> bool:
        """Whether this receiver is told of it."""
        return alert.kind in self.on and (not self.datasets or alert.dataset in self.datasets)

    def path_and_arguments(self) -> tuple[str, dict[str, Any]]:
        """The notifier's class and what it is made with."""
        if self.email:
            to = {
                "to": self.email,
                "subject": "{{ alert.subject }}",
                "html_content": "{{ alert.page }}",
            }
            return SMTP, {**to, **self.arguments}
        if self.webhook:
            return WEBHOOK, {"connection": self.webhook, **self.arguments}
        assert self.notifier is not None  # one of the three
        return self.notifier, self.arguments


def parse_alerts(text: str | None) -> tuple[AlertSpec, ...]:
    """The receivers; none where the variable is missing or empty. ConfigError says what is wrong with it."""
    if not text or not text.strip():
        return ()
    try:
        return TypeAdapter(tuple[AlertSpec, ...]).validate_python(json.loads(text))
    except json.JSONDecodeError as error:
        raise ConfigError(f"The Airflow variable {VARIABLE} is not JSON: {error}.") from None
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"])
        raise ConfigError(
            f"The Airflow variable {VARIABLE} is wrong at {place or 'its top'}: {found['msg']}."
        ) from None
