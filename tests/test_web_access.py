"""Who may: every route, from the application's own list, asked of the real Airflow around it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.web_demo import RUN_ID, write_demo

HOME = Path(__file__).parents[1]
# POST, and yet nothing is changed: whoever may look at a dataset may ask its champion.
ASKING = {"predict"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each route answered, in a process of Airflow's own."""
    places = tmp_path_factory.mktemp("airflow")
    (places / "datasets").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "SIGHTLINE_STORAGE": str(places / "data"),
        "SIGHTLINE_DATASETS": str(places / "datasets"),
        "PYTHONPATH": os.pathsep.join([str(HOME / "include"), str(HOME)]),
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SIGHTLINE_STORAGE", environment["SIGHTLINE_STORAGE"])
        patched.setenv("SIGHTLINE_DATASETS", environment["SIGHTLINE_DATASETS"])
        write_demo(places)
    command = [sys.executable, str(HOME / "tests" / "airflow_pages.py"), str(places)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def test_every_route_asks_for_a_permission(answers: dict[str, Any]) -> None:
    assert len(answers["answers"]) >= 7
    assert not [one for one in answers["answers"] if one["permission"] is None]


def test_the_plugin_stands_in_the_navigation_and_beside_each_run(answers: dict[str, Any]) -> None:
    views = {view["destination"]: view["href"] for view in answers["plugin"]["external_views"]}
    assert views == {"nav": "/sightline/", "dag_run": "/sightline/runs/{DAG_ID}/{RUN_ID}"}


def test_tasks_lead_to_their_run_and_to_its_report(answers: dict[str, Any]) -> None:
    ingest, train, others = (list(links.values()) for links in answers["links"])
    tab = f"/runs/{quote(RUN_ID, safe='')}/plugin/sightline_run"
    report = "/plugin/sightline/sightline/datasets/birds/reports/00004-abcdef01.html"
    assert ingest == [f"/dags/ingest_birds{tab}", ""]
    assert train == [f"/dags/train_birds{tab}", report]
    assert others == ["", ""]


def test_without_a_login_every_route_is_closed(answers: dict[str, Any]) -> None:
    for one in answers["answers"]:
        assert one["nobody"] == 401, one
        assert one["forger"] in (401, 403), one


def test_a_viewer_may_look(answers: dict[str, Any]) -> None:
    for one in answers["answers"]:
        if one["method"] == "GET":
            assert one["vera"] not in (401, 403), one
            assert one["vera"] < 500, one
    assert answers["by_bearer"] == 200


def test_a_viewer_may_change_nothing_and_a_user_may(answers: dict[str, Any]) -> None:
    for one in answers["answers"]:
        if one["method"] == "GET" or one["route"] in ASKING:
            continue
        assert one["permission"] in ("acts", "runs"), one
        assert one["vera"] == 403, one
        assert one["ulla"] not in (401, 403), one
