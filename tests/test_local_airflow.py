"""The local Airflow for real: up, runs, failures, Ctrl-C, down, and not one process left.

Toy DAGs stand for ours, whose own tests are elsewhere; `maintenance` is our own.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import psutil
import pytest

from sightline import models, storage
from sightline.airflow_client import ENDED, AirflowClient, Run
from sightline.catalog import Catalog, open_catalog
from sightline.settings import load_settings
from sightline.task_log import find_reason
from tests.airflow_browser import frame_of, logged_in

pytestmark = pytest.mark.end_to_end

SIGHTLINE = str(Path(sys.executable).with_name("sightline"))
DEADLINE_SECONDS = 120
DIGITS = "source: {type: digits}\nbackbone: {name: resnet18, weights: random, image_size: 64}\n"

TOYS = '''
"""Four pairs of DAGs: one that works, with a retry; one that refuses; one that never ends; one that asks."""
import logging, os, pathlib, time
from datetime import timedelta
from airflow.sdk import (
    DAG, Asset, CronPartitionTimetable, FixedKeyMapper, PartitionedAssetTimetable, task,
)
from airflow.sdk.exceptions import AirflowFailException
from sightline import stages
from sightline.config import load_dataset
from sightline.orchestration import approval_stage, python_stage

log = logging.getLogger(__name__)
ONCE_MORE = {"retries": 1, "retry_delay": timedelta(seconds=1)}
NIGHTLY = CronPartitionTimetable(
    "0 0 * * *", timezone="UTC", key_format="%Y-%m-%d", run_offset=-1, run_immediately=timedelta(0)
)

for name in ("toy", "broken", "endless", "asked"):
    features = Asset(f"features_{name}", f"sightline://{name}/features")

    with DAG(f"ingest_{name}", schedule=NIGHTLY, default_args=ONCE_MORE):

        @task
        def fetch_images(name=name, ti=None):
            log.info("progress fetch_images: 3/8 images, 2.0 a second, 2 s left")
            if name == "toy" and ti.try_number == 1:
                raise OSError("the line was cut")
            if name == "broken":
                raise AirflowFailException("Weights file squeezenet.pth is cut short; fetch it anew.")
            if name == "endless":
                pathlib.Path(os.environ["SIGHTLINE_STORAGE"], "endless.pid").write_text(str(os.getpid()))
                time.sleep(600)

        @task(outlets=[features])
        def validate_features(partition_key=None, outlet_events=None, features=features):
            log.info("partition %s", partition_key)
            if partition_key is None:
                outlet_events[features].add_partitions("all")

        fetch_images() >> validate_features()

    listening = PartitionedAssetTimetable(
        assets=features, default_partition_mapper=FixedKeyMapper("all")
    )
    with DAG(f"train_{name}", schedule=listening):

        @task
        def publish():
            log.info("published")

        @task
        def plan():
            return pathlib.Path(os.environ["SIGHTLINE_STORAGE"], "planned").read_text()

        @task
        def gate():
            return "| new | champion |"

        @task
        def report():
            return "/reports/page.html"

        if name == "asked":
            asked = load_dataset(name)
            plan() >> gate() >> report() >> approval_stage(asked) >> python_stage(asked, stages.publish)
        else:
            publish()
'''


@dataclass
class Command:
    """A `sightline` command at work in the places of the toy DAGs."""

    process: "subprocess.Popen[bytes]"
    output: Path

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self.output.read_text()

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(DEADLINE_SECONDS)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The places of the toy DAGs."""
    folder = tmp_path_factory.mktemp("local_airflow")
    for name in ("dags", "datasets", "data"):
        (folder / name).mkdir()
    (folder / "dags" / "toys.py").write_text(TOYS)
    shutil.copy(load_settings().home / "dags" / "maintenance.py", folder / "dags")
    for name in ("toy", "broken", "endless", "asked"):
        (folder / "datasets" / f"{name}.yaml").write_text(DIGITS)
    (folder / "datasets" / "damaged.yaml").write_text(DIGITS)
    (folder / "datasets" / "unreadable.yaml").write_text("source: {type: moon}\n")
    return folder


@pytest.fixture(scope="module")
def up(places: Path) -> Iterator[Command]:
    """`sightline up`, ready; it is taken down at the end, and then nothing may be left of it."""
    running = start(places, "up")
    try:
        wait_until(lambda: "Ctrl-C" in running.said or running.process.poll() is not None, "start")
        sessions = {part["pid"] for part in record(places)["parts"].values()}
        yield running
        down = start(places, "down")
        assert down.wait() == 0
        assert down.said == "Airflow is stopped.\n"
        assert running.wait() == 0
        assert "Airflow is down." in running.said
        assert processes_of(places, sessions) == []
    finally:
        running.process.terminate()
        running.wait()


@pytest.fixture
def client(up: Command, places: Path) -> Iterator[AirflowClient]:
    """A session with the toy DAGs' Airflow."""
    password = json.loads((places / "state" / "airflow" / "passwords.json").read_text())["admin"]
    with AirflowClient(f"http://127.0.0.1:{record(places)['port']}", password) as client:
        yield client


def test_up_tells_where_and_how_to_log_in_and_a_second_one_too(up: Command, places: Path) -> None:
    again = start(places, "up")
    assert again.wait() == 0
    address = next(line for line in up.said.splitlines() if line.startswith("Airflow: "))
    assert "http://127.0.0.1:" in address
    assert "(login admin / " in address
    assert address in again.said
    assert "running already" in again.said


def test_a_run_shows_a_retry_with_its_reason_trains_and_leaves_no_schedule_on(
    client: AirflowClient, places: Path
) -> None:
    run = start(places, "run", "toy")
    assert run.wait() == 0, run.said
    assert re.search("(will retry|try 1): OSError: the line was cut", run.said)
    assert "train_toy.publish done" in run.said
    for dag_id in ("ingest_toy", "train_toy"):
        dag = client.find_dag(dag_id)
        assert dag is not None
        assert dag["is_paused"]
    events = [json.loads(line) for line in lineage(places).read_text().splitlines()]
    assert {event["job"]["namespace"] for event in events} == {"sightline"}


def test_a_run_of_a_partition_reaches_the_training_too(client: AirflowClient, places: Path) -> None:
    run = start(places, "run", "toy", "--partition", "2026-11-05")
    assert run.wait() == 0, run.said
    assert "train_toy.publish done" in run.said
    logs = (places / "state" / "airflow" / "logs").rglob("task_id=validate_features/*.log")
    assert any("partition 2026-11-05" in log.read_text() for log in logs)


def test_a_failing_task_ends_the_run_with_its_sentence_and_no_traceback(
    client: AirflowClient, places: Path
) -> None:
    run = start(places, "run", "broken")
    assert run.wait() == 1
    sentence = "Weights file squeezenet.pth is cut short; fetch it anew."
    assert f"ingest_broken.fetch_images failed: {sentence}" in run.said
    assert "progress fetch_images: 3/8" in run.said
    assert "Traceback" not in run.said
    assert "AirflowFailException" not in run.said


def test_maintenance_cleans_what_it_can_and_names_what_it_cannot(
    client: AirflowClient, places: Path
) -> None:
    old = [
        places / "state" / "airflow" / "logs" / "run" / "old.log",
        places / "state" / "spark" / "spark-1" / "broadcast",
        places / "data" / "_code" / "0123" / "sightline.zip",
        *(places / "data" / name / "staging" / "fetch-1" / "part-0" for name in ("asked", "toy")),
    ]
    for path in old:
        storage.write_bytes(str(path), b"old")
        os.utime(path, (1, 1))
    entry = places / "data" / "damaged" / "images" / "_delta_log" / f"{0:020d}.json"
    storage.write_bytes(str(entry), b"no log of a table")
    wait_until(lambda: client.find_dag("maintenance") is not None, "the DAG")
    client.set_paused("maintenance", False)
    run = client.trigger("maintenance", None)
    wait_until(lambda: client.run(run.dag_id, run.run_id).state in ENDED, "the end of it")
    client.set_paused("maintenance", True)
    states = {name: task.state for name, task in client.tasks(run).items()}
    failed = {name for name, state in states.items() if state != "success"}
    assert failed == {"damaged.maintain", "unreadable.maintain"}, states
    assert "unreadable.yaml" in reason_of(client, run, "unreadable.maintain")
    assert "/data/damaged/images" in reason_of(client, run, "damaged.maintain")
    assert [path for path in old if path.exists()] == []


def reason_of(client: AirflowClient, run: Run, task_id: str) -> str:
    """Why the first try of a task has failed, which was its only one."""
    assert client.tasks(run)[task_id].try_number == 1
    lines, _ = client.read_log(run, task_id, 1)
    return find_reason(lines)


def test_ctrl_c_during_a_task_ends_the_task_and_the_run_but_not_the_shared_airflow(
    up: Command, client: AirflowClient, places: Path
) -> None:
    run = start(places, "run", "endless")
    pid_file = places / "data" / "endless.pid"
    wait_until(pid_file.exists, "the endless task's start")
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130, run.said
    assert run.said.endswith("Stopped; nothing of this command is left running.\n")
    wait_until(lambda: not psutil.pid_exists(int(pid_file.read_text())), "the task's end")
    assert client.active_runs("ingest_endless") == []
    assert up.process.poll() is None
    pid_file.unlink()


def test_a_person_s_answer_lets_the_model_serve_or_leaves_the_champion(
    client: AirflowClient, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_STORAGE", str(places / "data"))
    catalog = open_catalog("asked")
    log_of_scheduler = places / "state" / "airflow" / "scheduler.log"
    champion = None
    for version, answer in (("v1", "Approve"), ("v2", "Reject")):
        judge(catalog, version, champion)
        (places / "data" / "planned").write_text(version)
        run = start(places, "run", "asked")
        wait_until(lambda run=run: "waits for your answer at http" in run.said, "the question")
        run_id = re.search("/runs/([^/]+)/tasks/approve/required_actions", run.said)
        assert run_id is not None
        url = f"/dags/train_asked/dagRuns/{quote(run_id[1], safe='')}/taskInstances/approve/-1"
        question = client._request("GET", f"{url}/hitlDetails").json()
        assert question["subject"] == "Shall the new model of asked serve?"
        assert question["body"].strip() == "| new | champion |\n\nReport: /reports/page.html"
        assert models.read_champion(catalog) == champion  # as long as nobody has answered
        # Nobody answers before the scheduler has heard that the task waits: it would take that for an end.
        heard = f"TaskInstance Finished: dag_id=train_asked, task_id=approve, run_id={unquote(run_id[1])},"
        wait_until(lambda heard=heard: heard in log_of_scheduler.read_text(), "its pause")
        given = client._request("PATCH", f"{url}/hitlDetails", json={"chosen_options": [answer]})
        assert given.is_success, given.text
        assert run.wait() == 0, run.said
        state = {"Approve": "done", "Reject": "skipped"}[answer]
        assert f"train_asked.publish {state}" in run.said
        decision = models.read_decision(catalog, version)
        assert decision is not None
        assert (decision["approval"]["answer"], decision["approval"]["by"]) == (answer, "admin")
        champion = models.read_model(catalog, "v1")
        assert models.read_champion(catalog) == champion
    (entry,) = models.champion_history(catalog)
    assert entry["by"] == "admin"


def test_on_the_pages_in_airflow_s_frame_a_run_is_started_and_its_question_answered(
    client: AirflowClient, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_STORAGE", str(places / "data"))
    catalog = open_catalog("asked")
    judge(catalog, "v3", models.read_champion(catalog))
    (places / "data" / "planned").write_text("v3")
    address = f"http://127.0.0.1:{record(places)['port']}"
    password = json.loads((places / "state" / "airflow" / "passwords.json").read_text())["admin"]
    with logged_in(address, "admin", password) as page:
        page.get_by_role("link", name="Sightline").click()
        pages = frame_of(page)
        pages.get_by_role("button", name="Run asked").click()
        pages.get_by_role("dialog").get_by_role("button", name="Run", exact=True).click()
        pages.get_by_role("link", name=re.compile("^train_asked, .*: running$")).wait_for()
        pages.get_by_role("link", name="asked", exact=True).click()
        models_tab = pages.get_by_role("link", name="Models")
        approve = pages.get_by_role("button", name="Approve")

        def is_asked() -> bool:
            models_tab.click()
            pages.locator("#approvals[data-asked]").wait_for(state="attached")
            return bool(approve.count())

        wait_until(is_asked, "the question on the page")
        approve.click()
        pages.get_by_text("Your answer, Approve, is with Airflow; the run goes on.").wait_for()
    wait_until(lambda: (models.read_champion(catalog) or {}).get("version") == "v3", "v3 to serve")
    assert models.champion_history(catalog)[-1]["by"] == "admin"
    client.set_paused("ingest_asked", True)


def judge(catalog: Catalog, version: str, champion: dict[str, Any] | None) -> None:
    """A plan whose model the gate lets pass."""
    models.write_plan(catalog, models.Plan(version, "made-up", 1, 1, version))
    model = {"version": version, "created_at": "2026-11-05", "backbone_id": "made-up", "rows": {}}
    model |= {"fingerprint": version, "labels": [], "metrics": {"accuracy": 0.9}}
    models.write_model(catalog, model)
    decision = {"chosen": version, "passed": True, "reasons": [], "candidates": [model]}
    models.write_decision(
        catalog, version, {**decision, "champion": champion, "gate": {}, "approval": None}
    )


def test_down_ends_a_running_task_with_all_the_rest(client: AirflowClient, places: Path) -> None:
    client.set_paused("ingest_endless", False)
    run: Run = client.trigger("ingest_endless", None)
    wait_until((places / "data" / "endless.pid").exists, f"the start of the task of {run.run_id}")
    # What `down` leaves is looked at when the module's Airflow is taken down.


def test_a_signal_during_the_start_of_its_own_airflow_leaves_nothing(places: Path) -> None:
    state = places / "another_state"
    run = start(places, "run", "toy", state=state)
    server = state / "airflow" / "server.json"
    wait_until(server.exists, "the start of the first part")
    sessions = {part["pid"] for part in json.loads(server.read_text())["parts"].values()}
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 130, run.said
    assert processes_of(state, sessions) == []
    assert not server.exists()


def start(places: Path, *arguments: str, state: Path | None = None) -> Command:
    """Start a command with SIGINT ignored, as a shell starts what it runs with &."""
    output = places / f"{time.monotonic_ns()}.out"
    environment = {
        **os.environ,
        "SIGHTLINE_STORAGE": str(places / "data"),
        "SIGHTLINE_STATE": str(state or places / "state"),
        "SIGHTLINE_DATASETS": str(places / "datasets"),
        "SIGHTLINE_DAGS": str(places / "dags"),
    }
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [SIGHTLINE, *arguments],
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
    return Command(process, output)


def record(places: Path) -> dict[str, Any]:
    """What the running server has written down."""
    return dict(json.loads((places / "state" / "airflow" / "server.json").read_text()))


def lineage(places: Path) -> Path:
    """The file of OpenLineage's events."""
    return places / "state" / "lineage" / "events.jsonl"


def processes_of(folder: Path, sessions: set[int]) -> list[str]:
    """Processes of these sessions, or whose environment names the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            named = str(folder) in process.environ().get("SIGHTLINE_STATE", "")
            if (named or os.getsid(process.pid) in sessions) and process.status() != "zombie":
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue  # it has ended meanwhile, or is another user's
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {DEADLINE_SECONDS} s"
        time.sleep(0.1)
