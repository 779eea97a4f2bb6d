"""What the servers share that answer in JSON."""

import json
from http.server import BaseHTTPRequestHandler
from typing import Any


class JsonHandler(BaseHTTPRequestHandler):
    """Answers with JSON, and keeps no log."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def answer_json(self, value: Any, status: int = 200) -> None:
        """Answer with a value."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
