"""Where alerts go: a mail server and a webhook, both real, which keep what they were sent."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope

from tests.conftest import web_server
from tests.servers.answering import JsonHandler


@dataclass
class Mailbox:
    """What a mail server has taken."""

    port: int
    mails: list[Message] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        """Keep a mail."""
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content))
        return "250 kept"

    def connection(self) -> str:
        """The Airflow connection to it, as the environment holds one."""
        extra = {"from_email": "sightline@example.org", "disable_ssl": True, "disable_tls": True}
        extra |= {"timeout": 10, "retry_limit": 1}
        return json.dumps(
            {"conn_type": "smtp", "host": "127.0.0.1", "port": self.port, "extra": extra}
        )


@contextmanager
def mail_server() -> Iterator[Mailbox]:
    """A mail server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        mailbox = Mailbox(free.getsockname()[1])
    controller = Controller(mailbox, hostname="127.0.0.1", port=mailbox.port)
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()


@dataclass
class Webhook:
    """What a webhook was sent; it answers with `status`."""

    address: str = ""
    texts: list[str] = field(default_factory=list)
    status: int = 200

    def connection(self) -> str:
        """The Airflow connection to it."""
        return json.dumps({"conn_type": "http", "password": self.address})


@contextmanager
def webhook_server() -> Iterator[Webhook]:
    """A webhook on a free port; its path is a secret, as Slack's is."""
    webhook = Webhook()

    class Handler(JsonHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            webhook.texts.append(json.loads(body)["text"])
            self.answer_json({}, webhook.status)

    with web_server(Handler) as address:
        webhook.address = f"{address}/services/secret-path"
        yield webhook
