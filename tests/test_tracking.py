"""MLflow: one run a model whatever is repeated, nothing secret, and never a failed training."""

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sightline import __version__, models, tracking
from sightline.catalog import Catalog
from tests.conftest import catalog_of, write_dataset
from tests.servers.mlflow import MlflowServer, mlflow_server

DATASET = """
source:
  type: archive
  name: photos.zip
  urls: ["https://me:hidden-word@host/photos.zip?X-Signature=hidden-word"]
backbone: {weights: random}
fine_tune: {}
"""
EPOCHS = [{"number": n, "loss": 1 / n, "validation_loss": 0.9 / n} for n in (1, 2, 3)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    with mlflow_server() as served:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", served.address)
        yield served


@pytest.fixture
def catalog(own_places: Path) -> Catalog:
    spec = write_dataset(own_places, "photos", DATASET)
    catalog = catalog_of(spec)
    model = {
        "version": "v1",
        "kind": "fine_tuned",
        "created_at": "2026-01-02T03:04:05+00:00",
        "backbone_id": "made-up",
        "spec": spec.model_dump(mode="json"),
        "tables": {"images": 3, "features": 4, "splits": 5},
        "head": None,
        "fine_tuning": {"history": EPOCHS},
        "rows": {"train": 4, "test": 2},
        "metrics": {"accuracy": 0.5, "log_loss": float("nan")},
    }
    models.write_model(catalog, model)
    return catalog


def only_run(server: MlflowServer) -> dict[str, Any]:
    (run,) = server.runs.values()
    return run


def test_a_model_is_one_run_however_often_it_is_sent(
    server: MlflowServer, catalog: Catalog
) -> None:
    for _ in range(2):
        tracking.track(catalog, "v1")
    run = only_run(server)
    assert (run["name"], run["status"]) == ("v1", "FINISHED")
    assert server.experiments == {"sightline-photos": "1"}
    assert run["tags"] == {
        "sightline.dataset": "photos",
        "sightline.version": "v1",
        "sightline.kind": "fine_tuned",
        "sightline.backbone": "made-up",
        "sightline.code": __version__,
        "sightline.table.images": "3",
        "sightline.table.features": "4",
        "sightline.table.splits": "5",
    }
    assert run["params"]["fine_tune.batch_size"] == "32"
    assert run["params"]["rows.train"] == "4"
    points = {name: [(step, value) for step, value, _ in sorted(found)]
              for name, found in run["metrics"].items()}  # fmt: skip
    assert points == {
        "accuracy": [(0, 0.5)],
        "epoch.loss": [(1, 1.0), (2, 0.5), (3, 1 / 3)],
        "epoch.validation_loss": [(1, 0.9), (2, 0.45), (3, 0.3)],
    }


def test_another_version_is_another_run_and_a_champion_is_marked(
    server: MlflowServer, catalog: Catalog
) -> None:
    model = models.read_model(catalog, "v1")
    assert model is not None
    models.write_model(catalog, {**model, "version": "v2"})
    for version in ("v1", "v2"):
        tracking.track(catalog, version)
    tracking.note_champion(catalog, "v2")
    tracking.note_champion(catalog, "v3")  # never sent: nothing to mark
    marked = {run["name"]: run["tags"].get("sightline.champion") for run in server.runs.values()}
    assert marked == {"v1": None, "v2": "true"}


def test_long_settings_and_courses_are_sent_in_parts(
    server: MlflowServer, catalog: Catalog
) -> None:
    model = models.read_model(catalog, "v1")
    assert model is not None
    model["spec"]["source"]["many"] = {f"key {n}": "x" * 1000 for n in range(250)}
    model["fine_tuning"]["history"] = [{"number": n, "a:b": float(n)} for n in range(1, 1300)]
    models.write_model(catalog, model)
    tracking.track(catalog, "v1")
    run = only_run(server)
    assert len(run["params"]["source.many.key 249"]) == 500
    assert len(run["metrics"]["epoch.a_b"]) == 1299


def test_nothing_secret_is_sent(
    server: MlflowServer, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "the-token")
    model = models.read_model(catalog, "v1")
    assert model is not None
    model["spec"]["source"]["options"] = {"key": "hidden-word"}
    model["spec"]["source"]["api_key"] = "hidden-word"
    models.write_model(catalog, model)
    tracking.track(catalog, "v1")
    assert only_run(server)["params"]["source.urls"] == '["https://host/photos.zip"]'
    assert {login for _, login, _ in server.calls} == {"Bearer the-token"}
    assert not any("hidden-word" in body or "the-token" in body for _, _, body in server.calls)


def test_a_login_goes_by_basic(
    server: MlflowServer, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "word")
    tracking.track(catalog, "v1")
    assert {login for _, login, _ in server.calls} == {httpx.BasicAuth("me", "word")._auth_header}


@pytest.mark.parametrize("fails_from", range(7))
def test_a_server_that_fails_at_any_call_is_one_warning(
    server: MlflowServer, catalog: Catalog, caplog: pytest.LogCaptureFixture, fails_from: int
) -> None:
    server.status, server.fails_from = 500, fails_from
    tracking.track(catalog, "v1")
    warnings = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.getMessage() for one in warnings] == [
        f"MLflow at {server.address} was told nothing of this model: it answered 500"
    ]
    server.status = 200
    tracking.track(catalog, "v1")  # what was broken off is completed, not doubled
    assert only_run(server)["status"] == "FINISHED"


@pytest.mark.parametrize("address", ["http://me:hidden-word@127.0.0.1:1", "databricks", "http://["])
def test_no_server_is_one_warning_without_its_login(
    catalog: Catalog,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    tracking.track(catalog, "v1")
    tracking.note_champion(catalog, "v1")
    assert len(caplog.records) == 2
    assert "hidden-word" not in caplog.text


def test_a_slow_server_keeps_nobody_waiting(
    catalog: Catalog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, says nothing
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        thread = threading.Thread(target=tracking.track, args=(catalog, "v1"))
        thread.start()
        thread.join(timeout=20)
    assert not thread.is_alive()
    assert "ReadTimeout" in caplog.text


def test_without_a_server_nothing_is_sent(
    catalog: Catalog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.track(catalog, "v1")
    assert not caplog.records
