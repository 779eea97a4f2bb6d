"""What a container's health check says of a real server's answers."""

from collections.abc import Iterator
from typing import Any

import pytest

from sightline.health import find_problem
from tests.conftest import web_server
from tests.servers.answering import JsonHandler

HEALTH = {"scheduler": {"status": "healthy"}, "triggerer": {"status": "unhealthy"}}


@pytest.fixture
def address() -> Iterator[str]:
    """A server that answers as Airflow's does, and with 503 elsewhere."""

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            value: Any = HEALTH if self.path == "/health" else {}
            self.answer_json(value, 200 if self.path == "/health" else 503)

    with web_server(Handler) as address:
        yield address


def test_an_answer_is_health_where_no_part_is_asked_for(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # is not asked
    assert find_problem(f"{address}/health") is None
    assert "503" in str(find_problem(f"{address}/elsewhere"))


def test_a_part_is_as_well_as_the_server_says(address: str) -> None:
    assert find_problem(f"{address}/health", "scheduler") is None
    assert "calls triggerer unhealthy" in str(find_problem(f"{address}/health", "triggerer"))
    assert "KeyError" in str(find_problem(f"{address}/health", "dag_processor"))


def test_nobody_there_is_a_sentence() -> None:
    assert "does not answer" in str(find_problem("http://127.0.0.1:9/health"))
