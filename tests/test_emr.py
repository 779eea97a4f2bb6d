"""Spark stages on EMR, against moto's server: what AWS is told, and what becomes of each way to end."""

import ctypes
import gzip
import io
import json
import logging
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from airflow.providers.amazon.aws.operators.emr import EmrServerlessStartJobOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout
from moto.emr.models import emr_backends
from moto.emrserverless.models import emrserverless_backends

from sightline import emr, ledger, preflight, shipping, storage
from sightline.catalog import open_catalog
from sightline.config import DatasetSpec, read_dataset
from sightline.emr_operators import EmrClusterStage, EmrServerlessStage
from sightline.errors import ConfigError, ResourceError, SightlineError, StorageError, WeightsError
from sightline.operators import SparkStageOperator
from sightline.orchestration import spark_stage
from sightline.sources import Survey
from sightline.work import Work
from tests.conftest import write_dataset
from tests.servers.aws import aws_server

ACCOUNT, REGION = "123456789012", "us-east-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/sightline-job"
ENDS_SECONDS = 30
CLUSTER = {
    "ReleaseLabel": "emr-spark-8.0.0",
    "JobFlowRole": "EMR_EC2_DefaultRole",
    "ServiceRole": "EMR_DefaultRole",
    "Instances": {
        "KeepJobFlowAliveWhenNoSteps": True,
        "InstanceGroups": [
            {"InstanceRole": "MASTER", "InstanceType": "m7i.xlarge", "InstanceCount": 1},
            {"InstanceRole": "CORE", "InstanceType": "m7i.xlarge", "InstanceCount": 2},
        ],
    },
}


class Task:
    """A task instance as operators see it."""

    dag_id, run_id, try_number = "ingest_photos", "manual__2026-11-05", 1

    def __init__(self, operator: Any) -> None:
        self.task = operator
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        """Keep what Airflow would keep."""
        self.pushed[key] = value


@pytest.fixture(scope="session")
def aws_address() -> Iterator[str]:
    """A server of this machine's own that answers as AWS does."""
    with aws_server() as address:
        yield address


@pytest.fixture
def bucket(aws_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An empty bucket, which is the storage."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "very-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws_address)
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", '{"conn_type": "aws"}')
    fsspec.filesystem("s3").clear_instance_cache()
    name = "emr-" + "".join(filter(str.isalnum, tmp_path.name.lower()))[-40:]
    boto3.client("s3").create_bucket(Bucket=name)
    monkeypatch.setenv("SIGHTLINE_STORAGE", f"s3://{name}/data")
    return f"s3://{name}/data"


@pytest.fixture
def application(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An application of EMR Serverless, which the connection names."""
    client = boto3.client("emr-serverless")
    made = client.create_application(releaseLabel="emr-7.9.0", type="SPARK", clientToken="once")
    extra = {"application_id": made["applicationId"], "execution_role_arn": ROLE}
    connection = {"conn_type": "generic", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_EMR_SERVERLESS", json.dumps(connection))
    return str(made["applicationId"])


@pytest.fixture
def cluster_connection(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that describes clusters."""
    connection = {"conn_type": "emr", "extra": CLUSTER}
    monkeypatch.setenv("AIRFLOW_CONN_EMR_DEFAULT", json.dumps(connection))


@pytest.fixture
def jobs_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto's jobs have succeeded before anybody can look; these run until they are told to end."""
    monkeypatch.setattr("moto.emrserverless.models.JOB_STATUS", "RUNNING")


def photos(places: Path, compute: str) -> DatasetSpec:
    return write_dataset(places, "photos", f"source: {{type: digits}}\ncompute: {compute}\n")


def stage(spec: DatasetSpec, **options: Any) -> Any:
    """The task `featurize`, which looks as often as its operator lets it."""
    delay_seconds = 1 if spec.compute.where == "emr" else 0
    return spark_stage(spec, "featurize", "Embeds.", waiter_delay=delay_seconds, **options)


def context_of(operator: Any, try_number: int = 1) -> Any:
    task = Task(operator)
    task.try_number = try_number
    return {"ti": task, "partition_key": "2026-11-05"}


def until(found: Callable[[], Any]) -> Any:
    """What is found, once it is there."""
    end = time.monotonic() + ENDS_SECONDS
    while not (value := found()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.05)
    return value


def executed(operator: Any, context: Any) -> tuple[threading.Thread, list[BaseException]]:
    """Let the task run beside the test; what it raises is kept."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            operator.execute(context)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def interrupt(thread: threading.Thread) -> None:
    """Raise in the task what Airflow raises there when its time is over."""
    assert thread.ident is not None
    raised = ctypes.py_object(AirflowTaskTimeout)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), raised)


def job_runs(application: str) -> list[Any]:
    return list(emrserverless_backends[ACCOUNT][REGION].job_runs.get(application, []))


def clusters() -> list[Any]:
    return list(emr_backends[ACCOUNT][REGION].clusters.values())


def fail_as_the_job_does(error: SightlineError) -> None:
    """What the job at the other end notes when its stage raises."""
    run = ledger.TaskRun(Task.dag_id, Task.run_id, "featurize", "2026-11-05")
    with pytest.raises(SightlineError), ledger.recording(open_catalog("photos"), run):
        raise error


def settings_of(run: Any) -> dict[str, str]:
    [told] = run.configuration_overrides["applicationConfiguration"]
    return dict(told["properties"])


def test_a_stage_runs_where_the_dataset_or_the_environment_says(
    own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(stage(photos(own_places, "emr_serverless")), EmrServerlessStage)
    assert isinstance(stage(photos(own_places, "{where: emr, hours: 2}")), EmrClusterStage)
    silent = write_dataset(own_places, "silent", "source: {type: digits}\n")
    assert isinstance(spark_stage(silent, "featurize", ""), SparkStageOperator)
    monkeypatch.setenv("SIGHTLINE_COMPUTE", "emr")
    silent = read_dataset(own_places / "datasets" / "silent.yaml")
    assert isinstance(stage(silent), EmrClusterStage)
    assert "compute" not in silent.model_dump()  # a model is the same wherever it was computed


def test_an_unknown_place_is_refused_where_it_stands(
    own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=r"compute\.where: unknown place 'emr-serverless'; give one of"
    ):
        photos(own_places, "emr-serverless")
    monkeypatch.setenv("SIGHTLINE_COMPUTE", "moon")
    with pytest.raises(ConfigError, match="unknown place 'moon'"):
        write_dataset(own_places, "silent", "source: {type: digits}\n")


def test_serverless_is_told_the_job_its_code_and_its_settings(
    own_places: Path, application: str, bucket: str
) -> None:
    spec = photos(own_places, "{where: emr_serverless, executors: 5, conf: {spark.x: '1'}}")
    operator = stage(spec, conf={"spark.driver.memory": "512m", "spark.y": "2"})
    context = context_of(operator)
    operator.execute(context)
    [run] = job_runs(application)
    assert run.name == "sightline.ingest_photos.manual__2026-11-05.featurize"
    submit = run.job_driver["sparkSubmit"]
    assert submit["entryPointArguments"] == ["photos"]
    assert storage.read_bytes(submit["entryPoint"]).startswith(b'"""Embed the images')
    settings = settings_of(run)
    assert settings["spark.emr-serverless.driverEnv.SIGHTLINE_PARTITION"] == "2026-11-05"
    assert settings["spark.executorEnv.SIGHTLINE_STORAGE"] == bucket
    assert settings["spark.dynamicAllocation.maxExecutors"] == "5"
    assert settings["spark.default.parallelism"] == "20"
    assert (settings["spark.executor.memory"], settings["spark.driver.memory"]) == ("4g", "8g")
    assert (settings["spark.x"], settings["spark.y"]) == ("1", "2")
    assert len(settings) <= 100  # more are refused by AWS, and longer values
    assert max(map(len, settings.values())) <= 1024
    assert "very-secret" not in json.dumps([run.job_driver, run.configuration_overrides])
    logs = run.configuration_overrides["monitoringConfiguration"]["s3MonitoringConfiguration"]
    assert logs == {"logUri": f"{bucket}/_logs"}
    link = context["ti"].pushed["emr_serverless_s3_logs"]  # of which the UI makes a button
    assert (link["job_run_id"], link["log_uri"]) == (run.id, f"{bucket}/_logs")


def test_the_archive_is_a_home_and_is_sent_once(own_places: Path, bucket: str) -> None:
    photos(own_places, "emr_serverless")
    first = shipping.ship("featurize")
    with zipfile.ZipFile(io.BytesIO(storage.read_bytes(first.archive))) as archive:
        names = archive.namelist()
    assert {"include/sightline/jobs.py", "include/datasets/photos.yaml"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("/")]
    storage.write_bytes(first.archive, b"as it was sent")
    assert shipping.ship("featurize") == first
    assert storage.read_bytes(first.archive) == b"as it was sent"
    write_dataset(own_places, "more", "source: {type: digits}\n")
    assert shipping.ship("featurize").archive != first.archive


def test_what_the_job_refuses_fails_the_task_for_good_in_its_sentence(
    own_places: Path, application: str, jobs_run_on: None
) -> None:
    operator = stage(photos(own_places, "emr_serverless"))
    thread, raised = executed(operator, context_of(operator))
    [run] = until(lambda: job_runs(application))
    fail_as_the_job_does(StorageError("Table images is gone."))
    run.state = "FAILED"
    thread.join(ENDS_SECONDS)
    assert [type(error) for error in raised] == [AirflowFailException]
    assert str(raised[0]) == "Table images is gone."


def test_a_job_killed_for_memory_is_not_tried_again(
    own_places: Path, application: str, bucket: str, jobs_run_on: None
) -> None:
    operator = stage(photos(own_places, "{where: emr_serverless, executor_memory_gigabytes: 8}"))
    thread, raised = executed(operator, context_of(operator))
    [run] = until(lambda: job_runs(application))
    run.state_details = (
        "Job failed. ExitCode: 137. Last few exceptions: Worker has been killed as memory usage"
    )
    run.state = "FAILED"
    thread.join(ENDS_SECONDS)
    assert [type(error) for error in raised] == [AirflowFailException]
    assert "killed for memory; set compute.executor_memory_gigabytes higher (now 8)" in str(
        raised[0]
    )


def test_the_log_of_a_clusters_step_tells_of_a_full_heap(
    own_places: Path, cluster_connection: None, bucket: str
) -> None:
    operator = stage(photos(own_places, "emr"))
    thread, raised = executed(operator, context_of(operator))
    cluster = until(lambda: [one for one in clusters() if one.steps])[-1]
    [step] = cluster.steps
    place = storage.join(bucket, "_logs", cluster.id, "steps", step.id, "stderr.gz")
    heap = "Caused by: java.lang.OutOfMemoryError: Java heap space"
    storage.write_bytes(place, gzip.compress(heap.encode()))
    step.state, cluster.state = "FAILED", "TERMINATED_WITH_ERRORS"
    thread.join(ENDS_SECONDS)
    assert [type(error) for error in raised] == [AirflowFailException]
    assert str(raised[0]).startswith("featurize needs more than the Java heap of its driver or")


def test_a_lost_job_is_tried_again_whatever_an_earlier_try_had_refused(
    own_places: Path, application: str, jobs_run_on: None
) -> None:
    fail_as_the_job_does(StorageError("Table images is gone."))
    operator = stage(photos(own_places, "emr_serverless"))
    thread, raised = executed(operator, context_of(operator))
    [run] = until(lambda: job_runs(application))
    run.state = "FAILED"
    thread.join(ENDS_SECONDS)
    assert "Serverless Job failed" in str(raised[0])
    assert not isinstance(raised[0], AirflowFailException)


def test_the_end_of_the_drivers_log_stands_in_the_tasks(
    own_places: Path,
    application: str,
    bucket: str,
    jobs_run_on: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    operator = stage(photos(own_places, "emr_serverless"))
    thread, raised = executed(operator, context_of(operator))
    [run] = until(lambda: job_runs(application))
    place = f"_logs/applications/{application}/jobs/{run.id}/SPARK_DRIVER/stdout.gz"
    lines = "\n".join(f"line {number}" for number in range(100))
    storage.write_bytes(storage.join(bucket, place), gzip.compress(lines.encode()))
    with caplog.at_level(logging.INFO):
        run.state = "SUCCESS"
        thread.join(ENDS_SECONDS)
    assert not raised
    told = [record.getMessage() for record in caplog.records if "driver: " in record.getMessage()]
    assert (told[0], told[-1], len(told)) == ("driver: line 60", "driver: line 99", 40)


def test_a_killed_task_cancels_its_job(
    own_places: Path, application: str, jobs_run_on: None
) -> None:
    operator = stage(photos(own_places, "emr_serverless"))
    thread, raised = executed(operator, context_of(operator))
    [run] = until(lambda: job_runs(application))
    until(lambda: operator.job_id)
    operator.on_kill()
    assert run.state == "CANCELLED"
    thread.join(ENDS_SECONDS)
    assert raised


def test_a_task_that_ends_before_its_job_cancels_it(
    own_places: Path, application: str, jobs_run_on: None
) -> None:
    operator = stage(photos(own_places, "emr_serverless"))
    thread, raised = executed(operator, context_of(operator))
    [run] = until(lambda: job_runs(application))
    until(lambda: operator.job_id)
    interrupt(thread)
    thread.join(ENDS_SECONDS)
    assert run.state == "CANCELLED"
    assert [type(error) for error in raised] == [AirflowTaskTimeout]


def test_a_retry_cancels_what_a_try_that_was_lost_has_left(
    own_places: Path, application: str, jobs_run_on: None
) -> None:
    lost, other = (
        EmrServerlessStartJobOperator(
            task_id="lost",
            application_id=application,
            execution_role_arn=ROLE,
            job_driver={"sparkSubmit": {"entryPoint": "s3://a/b.py"}},
            name=name,
            wait_for_completion=False,
        )
        for name in ("sightline.ingest_photos.manual__2026-11-05.featurize", "another's")
    )
    for operator in (lost, other):
        operator.execute(context_of(operator))
    again = stage(photos(own_places, "emr_serverless"))
    thread, _ = executed(again, context_of(again, try_number=2))
    until(lambda: len(job_runs(application)) == 3)
    assert [run.state for run in job_runs(application)] == ["CANCELLED", "RUNNING", "RUNNING"]
    job_runs(application)[2].state = "SUCCESS"
    thread.join(ENDS_SECONDS)


def test_nothing_to_do_starts_nothing(own_places: Path, application: str) -> None:
    def done(work: Work) -> dict[str, int]:
        return {"featurized": 0}

    operator = stage(photos(own_places, "emr_serverless"), counts_if_done=done)
    operator.execute(context_of(operator))
    assert job_runs(application) == []
    run = ledger.TaskRun(Task.dag_id, Task.run_id, "featurize", "2026-11-05")
    record = ledger.read_record(open_catalog("photos"), run)
    assert record is not None
    assert record["counts"] == {"featurized": 0}


def test_tables_on_this_machine_are_no_tables_for_emr(
    own_places: Path, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_STORAGE", str(own_places / "data"))
    operator = stage(photos(own_places, "emr_serverless"))
    with pytest.raises(AirflowFailException, match="set it to s3://<bucket>/<folder>"):
        operator.execute(context_of(operator))


def test_the_preflight_refuses_what_a_job_on_emr_would_not_find(
    own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey = Survey({"a": 5, "b": 5}, 1_000)
    with pytest.raises(ConfigError, match="SIGHTLINE_STORAGE is /"):
        preflight.check_survey(photos(own_places, "emr"), survey)
    monkeypatch.setenv("SIGHTLINE_STORAGE", "s3://bucket/data")
    text = "source: {type: digits}\ncompute: emr\nbackbone: {weights: models/own.pth}\n"
    with pytest.raises(WeightsError, match=r"models/own\.pth lies on this machine"):
        preflight.check_survey(write_dataset(own_places, "own", text), survey)


def test_the_preflight_counts_the_memory_of_emr_not_of_this_machine(
    own_places: Path, bucket: str
) -> None:
    text = "source: {type: digits}\ncompute: {where: emr_serverless, executors: 9}\n"
    spec = write_dataset(own_places, "photos", text + "backbone: {weights: random}\n")
    survey = Survey({"a": 10**9, "b": 10**9})
    facts = preflight.check_survey(spec, survey)
    assert "compute: emr_serverless, up to 9 executors of 4 cores and 16 GB" in facts
    assert facts[-1].endswith("on EMR")


def test_a_training_that_no_executor_of_emr_can_hold(own_places: Path, bucket: str) -> None:
    text = "source: {type: digits}\nbackbone: {name: vgg16, weights: random, image_size: 32}\n"
    text += "fine_tune: {trainable: all}\n"
    text += "compute: {where: emr, executor_memory_gigabytes: 4}\n"
    with pytest.raises(ResourceError) as caught:
        preflight.check_survey(write_dataset(own_places, "photos", text), Survey({"a": 5, "b": 5}))
    assert "but there are 4.0 GiB on EMR; " in str(caught.value)
    assert str(caught.value).endswith("or raise compute.executor_memory_gigabytes (now 4).")


def test_a_connection_that_says_too_little_is_named(
    own_places: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_EMR_SERVERLESS", '{"conn_type": "generic"}')
    operator = stage(photos(own_places, "emr_serverless"))
    with pytest.raises(AirflowFailException, match="'emr_serverless' lacks application_id and"):
        operator.execute(context_of(operator))


def test_a_cluster_lives_for_one_step_and_has_the_locked_packages(
    own_places: Path, cluster_connection: None, bucket: str
) -> None:
    operator = stage(photos(own_places, "{where: emr, hours: 1}"), more_args=["v1"])
    before = len(clusters())
    context = context_of(operator)
    thread, raised = executed(operator, context)
    cluster = until(lambda: clusters()[before:])[0]
    [step] = cluster.steps
    assert not cluster.keep_job_flow_alive_when_no_steps
    assert cluster.log_uri == f"{bucket}/_logs"
    assert step.action_on_failure == "TERMINATE_CLUSTER"
    command = step.args
    assert command[:3] == ["spark-submit", "--deploy-mode", "cluster"]
    assert command[-2:] == ["photos", "v1"]
    assert command[-3].endswith("/spark_jobs/featurize.py")
    assert "spark.yarn.appMasterEnv.SIGHTLINE_PARTITION=2026-11-05" in command
    assert sum(map(len, command)) < 10_240  # EMR takes no longer one
    assert "very-secret" not in " ".join(command)
    [action] = cluster.bootstrap_actions
    assert storage.read_bytes(action.script_path).startswith(b"#!/usr/bin/env bash")
    assert b"pyspark==" in storage.read_bytes(action.args[0])
    step.state, cluster.state = "COMPLETED", "TERMINATED"
    thread.join(ENDS_SECONDS)
    assert not raised
    assert context["ti"].pushed["emr_logs"]["job_flow_id"] == cluster.id


@pytest.mark.parametrize("end", ["failed", "ended by hand", "killed", "interrupted"])
def test_however_its_job_ends_a_cluster_is_ended(
    own_places: Path, cluster_connection: None, end: str
) -> None:
    operator = stage(photos(own_places, "emr"))
    before = len(clusters())
    thread, raised = executed(operator, context_of(operator))
    cluster = until(lambda: clusters()[before:])[0]
    until(lambda: operator._job_flow_id)
    if end == "killed":
        operator.on_kill()
    elif end == "interrupted":
        interrupt(thread)
    elif end == "failed":
        cluster.steps[0].state, cluster.state = "FAILED", "TERMINATED_WITH_ERRORS"
    else:
        cluster.steps[0].state, cluster.state = "CANCELLED", "TERMINATED"
    thread.join(ENDS_SECONDS)
    assert cluster.state == "TERMINATED"  # also where moto was told otherwise: it was asked to
    assert len(raised) == 1
    assert not isinstance(raised[0], AirflowFailException)


def test_a_retry_ends_the_cluster_of_a_try_that_was_lost(
    own_places: Path, cluster_connection: None
) -> None:
    spec = photos(own_places, "emr")
    before = len(clusters())
    threads = []
    for try_number in (1, 2):
        operator = stage(spec)
        threads.append(executed(operator, context_of(operator, try_number))[0])
        until(lambda count=before + try_number: len(clusters()) == count)
    lost, again = clusters()[before:]
    assert lost.state == "TERMINATED"
    assert again.state != "TERMINATED"
    again.steps[0].state, again.state = "COMPLETED", "TERMINATED"
    for thread in threads:
        thread.join(ENDS_SECONDS)


def test_a_task_killed_before_its_cluster_exists_kills_nothing(own_places: Path) -> None:
    stage(photos(own_places, "emr")).on_kill()


def test_an_image_of_ones_own_needs_no_bootstrap() -> None:
    code = shipping.Shipped("s3://b/sightline.zip", "s3://b/featurize.py")
    compute = DatasetSpec.model_validate(
        {"name": "photos", "source": {"type": "digits"}, "compute": "emr"}
    ).compute
    job = emr.Job("name", compute, code, ["photos"], {}, {})
    account = {**CLUSTER, "CustomAmiId": "ami-1"}
    assert emr.job_flow(job, account, ["s3://b/x.sh"], "s3://b/_logs")["BootstrapActions"] == []
