"""EMR's jobs in a real Airflow, with our own DAGs, against moto's server: asked for, waited for, linked,
refused in a sentence, and cancelled. moto runs no job, so no image comes of it, and the night says so.
"""

import gzip
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import fsspec
import pytest

from sightline import ledger, storage, tables
from sightline.airflow_client import AirflowClient
from sightline.catalog import open_catalog
from sightline.errors import WeightsError
from tests.conftest import SIGHTLINE, write_photos
from tests.servers.aws import aws_server
from tests.test_emr import CLUSTER, REGION, ROLE, clusters, job_runs
from tests.test_local_airflow import Command, record, wait_until

pytestmark = pytest.mark.nightly

BUCKET, SECRET = "emr-airflow", "very-secret"
COMPUTE = {"succeeding": "emr_serverless", "stopped": "emr_serverless", "refused": "emr"}
DATASET = """
source: {{type: folder, path: 's3://{bucket}/photos'}}
backbone: {{name: resnet18, weights: random, image_size: 32}}
compute: {compute}
"""
PHOTOS = {"red": 3, "blue": 3}
REFUSAL = "Weights file resnet18.pth is cut short; fetch it anew."
TASK = "fetch_images"


@dataclass
class World:
    """An Airflow that is up, and a run of each dataset, whose job is at work."""

    places: Path
    application: str
    runs: dict[str, Command]

    def job_of(self, dataset: str) -> Any:
        """What moto was asked to run for a dataset; None as long as it was asked for nothing."""
        jobs = [*job_runs(self.application), *clusters()]
        return next((job for job in jobs if f".ingest_{dataset}." in job.name), None)

    def has_begun(self, dataset: str) -> bool:
        """Whether a dataset's job is at work, or its run has ended."""
        return bool(self.job_of(dataset) or self.runs[dataset].process.poll() is not None)

    def log_of(self, dataset: str) -> str:
        """What the task's log says."""
        folder = self.places / "state" / "airflow" / "logs" / f"dag_id=ingest_{dataset}"
        logs = folder.glob(f"*/task_id={TASK}/*.log")
        return "\n".join(path.read_text() for path in sorted(logs))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A job that succeeds, one that refuses, and one that is stopped by Ctrl-C, side by side."""
    places = tmp_path_factory.mktemp("emr_airflow")
    (places / "datasets").mkdir()
    with aws_server() as address, pytest.MonkeyPatch.context() as here:
        application = make_account(here, places, address)
        for dataset, compute in COMPUTE.items():
            text = DATASET.format(bucket=BUCKET, compute=compute)
            (places / "datasets" / f"{dataset}.yaml").write_text(text)
        with started(places, "up") as up, ExitStack() as stack:
            wait_until(lambda: "Ctrl-C" in up.said or up.process.poll() is not None, "start")
            runs = {name: stack.enter_context(started(places, "run", name)) for name in COMPUTE}
            world = World(places, application, runs)
            for name in COMPUTE:
                wait_until(lambda name=name: world.has_begun(name), f"the job of {name}")
                assert world.job_of(name), runs[name].said
            yield world
        assert not [log for log in places.rglob("*.log") if SECRET in log.read_text()]


def make_account(here: pytest.MonkeyPatch, places: Path, address: str) -> str:
    """An account with photos on S3, whose jobs run until they are told to end; returns an application."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        here.setenv(name, SECRET)
    here.setenv("AWS_DEFAULT_REGION", REGION)
    here.setenv("AWS_ENDPOINT_URL", address)
    here.setattr("moto.emrserverless.models.JOB_STATUS", "RUNNING")
    fsspec.filesystem("s3").clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    photos = write_photos(places / "photos", PHOTOS)
    fsspec.filesystem("s3").put(str(photos), f"{BUCKET}/photos", recursive=True)
    client = boto3.client("emr-serverless")
    made = client.create_application(releaseLabel="emr-7.9.0", type="SPARK", clientToken="once")
    extra = {"application_id": made["applicationId"], "execution_role_arn": ROLE}
    for name, connection in {
        "AWS_DEFAULT": {"conn_type": "aws"},
        "EMR_SERVERLESS": {"conn_type": "generic", "extra": extra},
        "EMR_DEFAULT": {"conn_type": "emr", "extra": CLUSTER},
    }.items():
        here.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
    return str(made["applicationId"])


@pytest.fixture(autouse=True)
def shared_places(world: World, own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into the module's places rather than the test's own."""
    for name, value in environment(world.places).items():
        if name.startswith("SIGHTLINE_"):
            monkeypatch.setenv(name, value)


def environment(places: Path) -> dict[str, str]:
    """The environment of the commands."""
    return {
        **os.environ,
        "SIGHTLINE_STORAGE": f"s3://{BUCKET}/data",
        "SIGHTLINE_STATE": str(places / "state"),
        "SIGHTLINE_DATASETS": str(places / "datasets"),
    }


@contextmanager
def started(places: Path, *arguments: str) -> Iterator[Command]:
    """A command of ours, which ends with the block."""
    output = places / f"{'-'.join(arguments)}.out"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [SIGHTLINE, *arguments],
            env=environment(places),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Command(process, output)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def links_of(world: World, dataset: str) -> dict[str, str]:
    """The buttons that Airflow's UI shows beside the task."""
    password = json.loads((world.places / "state" / "airflow" / "passwords.json").read_text())
    address = f"http://127.0.0.1:{record(world.places)['port']}"
    with AirflowClient(address, password["admin"]) as client:
        dag = f"/dags/ingest_{dataset}"
        runs = client._request("GET", f"{dag}/dagRuns").json()["dag_runs"]
        run_id = quote(runs[0]["dag_run_id"], safe="")
        url = f"{dag}/dagRuns/{run_id}/taskInstances/{TASK}/links"
        return dict(client._request("GET", url).json()["extra_links"])


def test_a_job_that_moto_lets_succeed_is_waited_for_and_linked_and_claims_no_image(
    world: World,
) -> None:
    job, run = world.job_of("succeeding"), world.runs["succeeding"]
    assert job.job_driver["sparkSubmit"]["entryPointArguments"] == ["succeeding"]
    assert storage.exists(job.job_driver["sparkSubmit"]["entryPoint"])
    logs = f"s3://{BUCKET}/data/_logs"
    place = f"applications/{world.application}/jobs/{job.id}/SPARK_DRIVER/stdout.gz"
    storage.write_bytes(f"{logs}/{place}", gzip.compress(b"6 images of 6\n"))
    job.state = "SUCCESS"
    assert run.wait() == 1
    said = world.log_of("succeeding")
    assert f"EMR serverless job started: {job.id}" in said
    assert "driver: 6 images of 6" in said
    link = links_of(world, "succeeding")["S3 Logs"]
    assert f"{BUCKET}?region={REGION}&prefix=data/_logs/applications/" in link
    assert link.endswith(f"/jobs/{job.id}/")
    assert f"ingest_succeeding.{TASK} done" in run.said
    assert "6 of 6 rows break 'every image of the manifest is held or rejected'" in run.said
    assert tables.current_version(open_catalog("succeeding").images) is None


def test_what_a_job_refuses_ends_the_run_in_its_sentence_and_the_cluster_with_it(
    world: World,
) -> None:
    cluster, run = world.job_of("refused"), world.runs["refused"]
    [step] = cluster.steps
    assert step.args[-1] == "refused"
    refuse(step.args, WeightsError(REFUSAL))
    step.state, cluster.state = "FAILED", "TERMINATED_WITH_ERRORS"
    assert run.wait() == 1
    assert f"ingest_refused.{TASK} failed: {REFUSAL}" in run.said
    assert "Traceback" not in run.said
    assert cluster.state == "TERMINATED"  # it was asked to, whatever moto was told
    assert f"{cluster.id}/" in links_of(world, "refused")["EMR Cluster Logs"]
    assert len([one for one in clusters() if ".ingest_refused." in one.name]) == 1


def refuse(command: list[str], error: Exception) -> None:
    """What the job at the other end notes when its stage raises."""
    told = dict(part.split("=", 1) for part in command if part.startswith("spark.executorEnv."))
    named = [told[f"spark.executorEnv.SIGHTLINE_{name}"] for name in ("DAG_ID", "RUN_ID")]
    task = ledger.TaskRun(*named, TASK, told["spark.executorEnv.SIGHTLINE_PARTITION"])
    with pytest.raises(type(error)), ledger.recording(open_catalog("refused"), task):
        raise error


def test_ctrl_c_cancels_the_job(world: World) -> None:
    job, run = world.job_of("stopped"), world.runs["stopped"]
    assert job.state == "RUNNING"
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130
    assert run.said.endswith("Stopped; nothing of this command is left running.\n")
    wait_until(lambda: job.state == "CANCELLED", "the end of the job")
    assert "Stopping job run with jobId" in world.log_of("stopped")
