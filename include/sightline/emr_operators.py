"""Spark stages on Amazon EMR: the Amazon provider's operators, told what to run when their task begins.

What a job refuses in a sentence fails without another try, a job whose task is killed is cancelled, and a
cluster ends with its job, however that ends.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.operators.emr import (
    EmrCreateJobFlowOperator,
    EmrServerlessStartJobOperator,
)
from airflow.providers.amazon.aws.utils.waiter import WaitPolicy
from airflow.sdk import BaseOperator, Connection, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from sightline import emr, storage
from sightline.config import DatasetSpec, load_dataset
from sightline.errors import SightlineError
from sightline.operators import SparkStage, failure_of
from sightline.settings import load_settings
from sightline.work import current_task

if TYPE_CHECKING:
    from sightline.ledger import TaskRun

log = logging.getLogger(__name__)

POLL_SECONDS = 20
UNFINISHED_JOBS = ["SUBMITTED", "PENDING", "SCHEDULED", "QUEUED", "RUNNING"]
UNFINISHED_CLUSTERS = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]
LOG_LINES = 40  # of the driver's log that the task's log repeats
ERROR_LINES = 500  # of its errors, in which the reason of a failure is looked for


class EmrStage(SparkStage):
    """What both kinds share: which job it is, and what becomes of its failure."""

    stage: str
    more_args: list[str]
    conf: dict[str, str]

    def take_options(self, dataset: str, stage: str, options: dict[str, Any]) -> dict[str, Any]:
        """Keep what a stage is made of; returns what every operator of Airflow takes."""
        self.dataset, self.stage, self.code = dataset, stage, f"spark_jobs/{stage}.py"
        self.more_args = options.pop("more_args", [])
        self.conf = options.pop("conf", {})
        self.counts_if_done = options.pop("counts_if_done", None)
        for local in ("quick", "partition"):  # a JVM's start; and the task's own, known to its run
            options.pop(local, None)
        return {"waiter_delay": POLL_SECONDS, **options, "task_id": stage, "deferrable": False}

    @contextmanager
    def refusals(self, context: Context) -> Iterator[emr.Job]:
        """Give the job, and raise a refusal of ours, here or there, as one that no second try will mend."""
        from sightline import ledger
        from sightline.catalog import open_catalog

        try:
            spec, catalog = load_dataset(self.dataset), open_catalog(self.dataset)
            task = current_task(context, spec, self.stage)
            storage.remove_tree(ledger.failure_url(catalog, task))  # of an earlier try
            job = self._job(task)
        except SightlineError as error:
            raise failure_of(error) from None
        try:
            yield job
        except SightlineError as error:
            raise failure_of(error) from None
        except Exception as error:
            refused = (ledger.read_failure(catalog, task) or {}).get("refused")
            final = refused or self._memory_reason(error, spec)
            if final:
                raise AirflowFailException(final) from None
            raise

    def _memory_reason(self, error: Exception, spec: DatasetSpec) -> str | None:
        """One sentence if the job failed for memory, from what EMR and the driver's log say."""
        from sightline import spark_memory

        answer = getattr(error, "last_response", "")  # of the API, with the details of the state
        text = "\n".join([str(error), str(answer), *self._printed()])
        gigabytes = spec.compute.executor_memory_gigabytes
        return spark_memory.explain_emr_failure(self.stage, text, gigabytes)

    def _printed(self) -> list[str]:
        """What a failed job has left: its driver's log, or EMR's reason."""
        raise NotImplementedError

    def _job(self, task: "TaskRun") -> emr.Job:
        from sightline import provenance, shipping

        root = load_settings().storage
        emr.check_storage(root)
        environment = {
            "SIGHTLINE_STORAGE": root,
            "SIGHTLINE_STATE": "/tmp/sightline",  # noqa: S108 - of the job's own container
            "SIGHTLINE_COMMIT": provenance.commit(),
            "SIGHTLINE_DAG_ID": task.dag_id,
            "SIGHTLINE_RUN_ID": task.run_id,
            "SIGHTLINE_PARTITION": task.partition,
            "AWS_REGION": self.hook.conn_region_name,  # type: ignore[attr-defined]
        }
        spec = load_dataset(self.dataset)
        return emr.Job(
            # A retry has the same name, by which it finds what an earlier try has left running.
            name=storage.safe_name(f"sightline.{task.dag_id}.{task.run_id}.{self.stage}")[:256],
            compute=spec.compute,
            code=shipping.ship(self.stage),
            arguments=[self.dataset, *self.more_args],
            environment={name: value for name, value in environment.items() if value},
            conf=self.conf,
            barrier_processes=emr.barrier_processes(spec, self.stage),
        )


class EmrServerlessStage(EmrStage, EmrServerlessStartJobOperator):
    """Runs a stage's Spark job in an application of EMR Serverless."""

    template_fields = (*EmrServerlessStartJobOperator.template_fields, "dataset", "more_args")

    def __init__(self, *, dataset: str, stage: str, **options: Any) -> None:
        told_later: dict[str, Any] = {
            "application_id": "",
            "execution_role_arn": "",
            "job_driver": {},
        }
        super().__init__(**told_later, **self.take_options(dataset, stage, options))

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> None:
        """Start the job and wait for its end, unless there is nothing to do."""
        if self.is_done(context):
            return
        with self.refusals(context) as job:
            account = emr.needed(
                emr.SERVERLESS, _extra(emr.SERVERLESS), ("application_id", "execution_role_arn")
            )
            self.application_id = account["application_id"]
            self.execution_role_arn = account["execution_role_arn"]
            self.name, self.job_driver = job.name, emr.serverless_driver(job)
            self.configuration_overrides = emr.serverless_settings(job, _logs())
            self.config = {"executionTimeoutMinutes": max(5, round(job.compute.hours * 60))}
            self.waiter_max_attempts = _attempts(job, self.waiter_delay)
            if context["ti"].try_number > 1:
                self._cancel_earlier(job.name)
            try:
                super().execute(context)
            except BaseException:
                self._cancel_unfinished()
                raise
            finally:
                self._repeat_log()

    def _cancel_unfinished(self) -> None:
        """Cancel the job where not its own end has ended the task."""
        if self.job_id is None:
            return
        run = {"applicationId": self.application_id, "jobRunId": self.job_id}
        with suppress(BotoCoreError, ClientError):  # what ended the task comes first
            if self.hook.conn.get_job_run(**run)["jobRun"]["state"] in UNFINISHED_JOBS:
                log.info("cancelling job run %s", self.job_id)
                self.hook.conn.cancel_job_run(**run)

    def _cancel_earlier(self, name: str) -> None:
        """Cancel what a try has left that was killed with no time to cancel it."""
        pages = self.hook.conn.get_paginator("list_job_runs").paginate(
            applicationId=self.application_id, states=UNFINISHED_JOBS
        )
        for run in (run for page in pages for run in page["jobRuns"] if run.get("name") == name):
            log.info("cancelling job run %s of an earlier try", run["id"])
            self.hook.conn.cancel_job_run(applicationId=self.application_id, jobRunId=run["id"])

    def _repeat_log(self) -> None:
        """The end of the driver's log, where EMR has written it already."""
        for line in self._driver_log("stdout.gz"):
            log.info("driver: %s", line)

    def _printed(self) -> list[str]:
        return self._driver_log("stderr.gz", ERROR_LINES)

    def _driver_log(self, name: str, count: int = LOG_LINES) -> list[str]:
        place = f"applications/{self.application_id}/jobs/{self.job_id}/SPARK_DRIVER/{name}"
        return _last_lines(storage.join(_logs(), place), count)


class EmrClusterStage(EmrStage, EmrCreateJobFlowOperator):
    """Runs a stage's Spark job on an EMR cluster of its own, which ends with it."""

    template_fields = (*EmrCreateJobFlowOperator.template_fields, "dataset", "more_args")
    _job_flow_id: str | None = None  # on_kill may come before there is a cluster

    def __init__(self, *, dataset: str, stage: str, **options: Any) -> None:
        super().__init__(
            emr_conn_id=None,  # read below, where what is missing is said in a sentence
            wait_for_completion=True,
            wait_policy=WaitPolicy.WAIT_FOR_STEPS_COMPLETION,
            **self.take_options(dataset, stage, options),
        )

    def execute(self, context: Context) -> None:
        """Start the cluster and wait for its end, unless there is nothing to do."""
        if self.is_done(context):
            return
        with self.refusals(context) as job:
            account = emr.needed(emr.CLUSTER, _extra(emr.CLUSTER), ("ReleaseLabel", "Instances"))
            self.job_flow_overrides = emr.job_flow(job, account, _bootstrap(), _logs())
            self.waiter_max_attempts = _attempts(job, self.waiter_delay)
            if context["ti"].try_number > 1:
                self._end_earlier(job.name)
            try:
                super().execute(context)
                self._check_step()
            except BaseException:
                self.on_kill()
                raise

    def _check_step(self) -> None:
        """A cluster that somebody has ended by hand ends well for EMR, but its step does not."""
        steps = self.hook.conn.list_steps(ClusterId=self._job_flow_id)["Steps"]
        states = [step["Status"]["State"] for step in steps]
        if states != ["COMPLETED"]:
            raise RuntimeError(
                f"Cluster {self._job_flow_id} has ended, but its step is {', '.join(states)}."
            )

    def _printed(self) -> list[str]:
        if self._job_flow_id is None:
            return []
        with suppress(BotoCoreError, ClientError):  # what ended the task comes first
            steps = self.hook.conn.list_steps(ClusterId=self._job_flow_id)["Steps"]
            logs = [_logs(), self._job_flow_id, "steps"]
            files = [storage.join(*logs, step["Id"], "stderr.gz") for step in steps]
            reasons = [str(step["Status"].get("FailureDetails", "")) for step in steps]
            return reasons + [line for file in files for line in _last_lines(file, ERROR_LINES)]
        return []

    def _end_earlier(self, name: str) -> None:
        """End the cluster of a try that was killed with no time to end it."""
        pages = self.hook.conn.get_paginator("list_clusters").paginate(
            ClusterStates=UNFINISHED_CLUSTERS
        )
        found = [one["Id"] for page in pages for one in page["Clusters"] if one["Name"] == name]
        if found:
            log.info("ending %s of an earlier try", ", ".join(found))
            self.hook.conn.terminate_job_flows(JobFlowIds=found)


OPERATORS: dict[str, Callable[..., BaseOperator]] = {
    "emr_serverless": EmrServerlessStage,
    "emr": EmrClusterStage,
}


def _extra(connection: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = Connection.get(connection).extra_dejson
    except AirflowNotFoundException:
        return {}
    return found


def _attempts(job: emr.Job, delay_seconds: int) -> int:
    return math.ceil(job.compute.hours * 3_600 / max(1, delay_seconds))


def _logs() -> str:
    return storage.join(load_settings().storage, emr.LOGS)


def _bootstrap() -> list[str]:
    """The script that installs the locked packages on a cluster's nodes, and its argument."""
    from sightline import shipping

    home = load_settings().home
    script = shipping.ship_file(home / "deploy" / "emr" / "bootstrap.sh")
    return [script, shipping.ship_file(home / "requirements.txt")]


def _last_lines(url: str, count: int) -> list[str]:
    import gzip

    try:
        return gzip.decompress(storage.read_bytes(url)).decode().splitlines()[-count:]
    except (OSError, EOFError):  # not written yet, or not to be read by us
        return []
