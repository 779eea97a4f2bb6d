"""Whether logins and servers are there: by real servers, with Airflow's connections given by name."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sightline import connections_check
from sightline.connections_check import Around, Login
from sightline.settings import load_settings
from tests.conftest import write_dataset
from tests.servers.alerts import webhook_server


@pytest.fixture
def listening() -> Iterator[int]:
    """A port where something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def states(logins: dict[str, Login], alerts: str | None = None) -> dict[str, str]:
    """The state of everything, by its name."""
    around = Around(
        load_settings(), connections_check.readable_specs(), logins.get, lambda name: alerts
    )
    return {one.name: one.state for one in connections_check.check(around)}


def test_a_laptop_needs_nothing_but_spark(own_places: Path) -> None:
    assert states({"spark_default": Login("local[2]", None, "")}) == {
        "storage": "ok",
        "spark_default": "ok",
        "SIGHTLINE_LINEAGE_URL": "unused",
        "flickr_default": "unused",
        "kaggle_default": "unused",
        "sightline_alerts": "unused",
    }
    assert list((own_places / "data").iterdir()) == []  # what it wrote is gone


def test_what_a_dataset_asks_for_is_missing_until_it_is_declared(own_places: Path) -> None:
    path = own_places / "datasets" / "photos.yaml"
    path.write_text("source: {type: kaggle, dataset: moltean/fruits, connection: mine}\n")
    assert states({})["mine"] == "missing"
    assert states({"mine": Login("", None, "key")})["mine"] == "ok"


def test_a_server_answers_or_does_not(
    listening: int, monkeypatch: pytest.MonkeyPatch, own_places: Path
) -> None:
    monkeypatch.setenv("SIGHTLINE_LINEAGE_URL", f"http://127.0.0.1:{listening}")
    found = states({"spark_default": Login(f"spark://127.0.0.1:{listening}", None, "")})
    assert (found["SIGHTLINE_LINEAGE_URL"], found["spark_default"]) == ("ok", "ok")
    assert states({"spark_default": Login("spark://127.0.0.1", 9, "")})["spark_default"] == "wrong"
    assert states({})["spark_default"] == "missing"


def test_storage_that_cannot_be_written_is_wrong(
    own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_places / "file").write_text("in the way")
    monkeypatch.setenv("SIGHTLINE_STORAGE", str(own_places / "file" / "data"))
    assert states({})["storage"] == "wrong"


def test_receivers_of_alerts_need_their_servers(own_places: Path) -> None:
    alerts = json.dumps([{"email": "team@example.org"}, {"webhook": "chat"}])
    found = states({}, alerts)
    assert (found["sightline_alerts"], found["smtp_default"], found["chat"]) == (
        "ok",
        "missing",
        "missing",
    )
    assert states({}, "[{}]")["sightline_alerts"] == "wrong"
    with webhook_server() as webhook:
        around = Around(
            load_settings(),
            (),
            {"chat": Login("", None, webhook.address)}.get,
            lambda name: '[{"webhook": "chat"}]',
        )
        found_there = connections_check.check_alerts(around)
        assert found_there[-1].state == "ok"
        assert "secret-path" not in connections_check.describe(found_there)
        assert webhook.texts == []


def test_everything_that_is_looked_for_stands_in_the_documents(own_places: Path) -> None:
    documents = Path(__file__).parents[1] / "docs"
    text = (documents / "deploy.md").read_text() + (documents / "cluster.md").read_text()
    alerts = json.dumps([{"email": "team@example.org"}, {"webhook": "sightline_webhook"}])
    named = [name for name in states({}, alerts) if name != "storage"]
    assert [name for name in named if f"`{name}`" not in text] == []


@pytest.mark.end_to_end
def test_the_command_asks_the_local_airflow_s_own_connections(own_places: Path) -> None:
    write_dataset(own_places, "birds", "source: {type: digits}\n")
    secret = json.dumps({"conn_type": "generic", "password": "top-secret"})
    environment = {**os.environ, "AIRFLOW_CONN_KAGGLE_DEFAULT": secret}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("sightline")), "connections"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok      spark_default           local[" in done.stdout
    assert "ok      kaggle_default          is declared, for no dataset" in done.stdout
    assert "top-secret" not in done.stdout + done.stderr
