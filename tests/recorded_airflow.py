"""A server on 127.0.0.1 that answers as a recorded Airflow did, and notes what it was asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from tests.servers.answering import JsonHandler

Answer = tuple[int, Any]  # status and JSON


@dataclass
class RecordedAirflow:
    """Answers by method and path (as sent, quoted); a list is handed out one by one, its last stays."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    address: str = ""

    def answer(self, method: str, path: str, token: str) -> Answer:
        """What to say to a request."""
        self.asked.append(f"{method} {path}")
        self.tokens.append(token)
        if path == "/auth/token":
            return 201, {"access_token": f"token-{self.asked.count('POST /auth/token')}"}
        prepared = self.answers.get(f"{method} {path.split('?')[0]}", [(404, {"detail": "none"})])
        return prepared.pop(0) if len(prepared) > 1 else prepared[0]


@contextmanager
def serve(recorded: RecordedAirflow) -> Iterator[RecordedAirflow]:
    """Serve until the end of the block."""

    class Handler(JsonHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            recorded.bodies.append(self.rfile.read(length))
            token = self.headers.get("Authorization", "")
            status, value = recorded.answer(self.command, self.path, token)
            self.answer_json(value, status)

        do_GET = do_POST = do_PATCH = handle_any  # noqa: N815 (http.server's names)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    recorded.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield recorded
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
