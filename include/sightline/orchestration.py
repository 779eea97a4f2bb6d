"""The only module that knows Airflow: how a stage becomes a task, with retries, pools and lineage.

A Python stage is a function of `Work`, its docstring the text that the person on call reads in the UI;
a Spark stage is a program in spark_jobs/. Stages are imported inside tasks, so a DAG file parses fast.
"""

import logging
import re
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, Asset, Connection, Context, get_current_context, task
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
)

from sightline.config import DatasetSpec, load_dataset
from sightline.errors import REFUSED, SightlineError
from sightline.settings import load_settings

if TYPE_CHECKING:
    from sightline.catalog import Catalog
    from sightline.ledger import Record, TaskRun
    from sightline.sources import Access, Credential

log = logging.getLogger(__name__)

WHOLE = "all"  # the partition of a run that has no partition key
SPARK_POOL = "sightline_spark"  # one slot a machine: two Spark drivers would fight for its cores
FLICKR_POOL = "sightline_flickr"  # one slot: one key's queries an hour are counted across all tasks
VERSION = "{{ ti.xcom_pull(task_ids='plan') }}"
WANTED = "{{ ti.xcom_pull(task_ids='choose_images') }}"
APPROVAL = """{{ ti.xcom_pull(task_ids='gate') }}

Report: {{ ti.xcom_pull(task_ids='report') }}
"""

# For what another try may mend: a lost process, a full queue, a network. A SightlineError is never
# retried: the same input would meet the same refusal.
RETRIES: dict[str, Any] = {
    "owner": "sightline",
    "retries": 3,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
}


@dataclass(frozen=True)
class Work:
    """What a Python stage is given."""

    spec: DatasetSpec
    catalog: "Catalog"
    task: "TaskRun"
    record: "Record"
    context: Context

    @property
    def version(self) -> str:
        """The model version that this run's plan has named."""
        return str(self.context["ti"].xcom_pull(task_ids="plan"))

    @property
    def access(self) -> "Access":
        """What the source is given."""
        from sightline.sources import Access

        cursor = Cursor(self.context.get("task_state_store"))
        return Access(self.catalog, self.task.partition, find_credential, cursor)


class Cursor(MutableMapping[str, Any]):
    """Airflow's store of a task's state, which its retries find again, as a dictionary."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._keys: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        value = self._store.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._store.set(key, value)
        self._keys.add(key)

    def __delitem__(self, key: str) -> None:
        self._store.delete(key)
        self._keys.discard(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)  # those of this try: the store does not list

    def __len__(self) -> int:
        return len(self._keys)


def find_credential(connection: str) -> "Credential | None":
    """The login of an Airflow connection, or None where there is none; Airflow masks it in its logs."""
    from sightline.sources import Credential

    try:
        found = Connection.get(connection)
    except AirflowNotFoundException:
        return None
    return Credential(found.login or "", found.password or "")


def features_asset(dataset: str) -> Asset:
    """The asset whose change starts the training."""
    return Asset(f"features_{dataset}", f"sightline://{dataset}/features")


def model_asset(dataset: str) -> Asset:
    """The asset that changes when another champion serves."""
    return Asset(f"model_{dataset}", f"sightline://{dataset}/champion")


def current_task(context: Context, spec: DatasetSpec, name: str) -> "TaskRun":
    """Which task of which run is at work, from Airflow's context."""
    from sightline.ledger import TaskRun

    ti = context["ti"]
    partition = ti.task.render_template(partition_template(spec), context)
    return TaskRun(ti.dag_id, ti.run_id, name, partition)


def partition_template(spec: DatasetSpec) -> str:
    """A run's partition, for Airflow to render; a run without one takes, of a source by days, the day
    before it.
    """
    if spec.source.is_daily:
        return "{{ partition_key or macros.ds_add(dag_run.run_after.strftime('%Y-%m-%d'), -1) }}"
    return f"{{{{ partition_key or '{WHOLE}' }}}}"


class TableLineage:
    """Tells OpenLineage which tables a task read and wrote, from the task's record, and where its code is.

    Airflow's OpenLineage listener calls it; the parent run, the job's owner and its documentation are told
    by Airflow itself.
    """

    dataset: str
    task_id: str
    owner: str
    code: str  # the file that holds the task, from Sightline's home

    def get_openlineage_facets_on_start(self) -> Any:
        """When the task begins."""
        return self._tell(None)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """When the task has ended well."""
        from sightline import lineage

        return self._tell(lineage.ended_record(*self._task(task_instance)))

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """When a try of the task has failed."""
        from sightline import lineage

        return self._tell(lineage.failed_record(*self._task(task_instance)))

    def _task(self, task_instance: Any) -> "tuple[Catalog, TaskRun]":
        from sightline.catalog import open_catalog
        from sightline.ledger import TaskRun

        task = TaskRun(task_instance.dag_id, task_instance.run_id, self.task_id, WHOLE)
        return open_catalog(self.dataset), task

    def _tell(self, record: dict[str, Any] | None) -> Any:
        from airflow.providers.openlineage.extractors import OperatorLineage

        from sightline import lineage

        inputs, outputs = lineage.datasets(record, self.owner) if record else ([], [])
        code = {"sourceCodeLocation": lineage.source_code(self.code)}
        return OperatorLineage(inputs=inputs, outputs=outputs, job_facets=code)


class StageOperator(TableLineage, PythonOperator):
    """Runs a Python stage, records what it did, and says a refusal in one sentence."""

    template_fields = (*PythonOperator.template_fields, "dataset")
    code = "include/sightline/stages.py"

    def __init__(self, *, dataset: str, stage: Callable[[Work], Any], **options: Any) -> None:
        self.dataset = dataset
        self.stage = stage
        super().__init__(
            task_id=stage.__name__, doc_md=stage.__doc__, python_callable=self.run_stage, **options
        )

    def run_stage(self) -> Any:
        """Call the stage."""
        from sightline import ledger
        from sightline.catalog import open_catalog

        context = get_current_context()
        catalog = open_catalog(self.dataset)
        try:
            spec = load_dataset(self.dataset)
            task = current_task(context, spec, self.task_id)
            with ledger.recording(catalog, task) as record:
                result = self.stage(Work(spec, catalog, task, record, context))
        except SightlineError as error:
            raise AirflowFailException(str(error)) from None
        log.info("%s finished in %.1f s: %s", self.task_id, record.seconds, record.counts)
        return result


class SparkStageOperator(TableLineage, SparkSubmitOperator):
    """Submits a stage's Spark job; what the job refuses in a sentence fails without another try.

    `counts_if_done` looks without Spark whether there is anything to do.
    """

    template_fields = (*SparkSubmitOperator.template_fields, "dataset")

    def __init__(
        self, *, dataset: str, partition: str, stage: str, doc_md: str, **options: Any
    ) -> None:
        self.dataset = dataset
        self.code = f"spark_jobs/{stage}.py"
        self.quick = options.pop("quick", True)
        self.counts_if_done: Callable[[Work], Any] | None = options.pop("counts_if_done", None)
        super().__init__(
            task_id=stage,
            name=f"{stage}_{dataset}",
            doc_md=doc_md,
            application=str(load_settings().home / self.code),
            application_args=[dataset, *options.pop("more_args", [])],
            env_vars={
                "SIGHTLINE_DAG_ID": "{{ dag.dag_id }}",
                "SIGHTLINE_RUN_ID": "{{ run_id }}",
                "SIGHTLINE_PARTITION": partition,
            },
            pool=SPARK_POOL,
            **options,
        )

    def execute(self, context: Context) -> None:
        """Submit and wait, unless there is nothing to do."""
        from sightline import spark

        if self._is_done(context):
            return
        self.conf = {**spark.submit_conf(self.quick), **(self.conf or {})}
        try:
            super().execute(context)
        except AirflowException as error:
            refused = re.search(rf"{REFUSED}(.+)", str(error))
            if refused:
                raise AirflowFailException(refused[1].strip()) from None
            raise

    def _is_done(self, context: Context) -> bool:
        """Whether the stage has nothing to do; then its record says so."""
        from sightline import ledger
        from sightline.catalog import open_catalog

        if self.counts_if_done is None:
            return False
        spec, catalog = load_dataset(self.dataset), open_catalog(self.dataset)
        task = current_task(context, spec, self.task_id)
        found = ledger.Record(self.task_id, task.dag_id, task.run_id, task.partition, "")
        counts = self.counts_if_done(Work(spec, catalog, task, found, context))
        if counts is None:
            return False
        with ledger.recording(catalog, task) as record:
            record.counts = counts
        log.info("%s has nothing to do, and starts no Spark: %s", self.task_id, counts)
        return True


def python_stage(spec: DatasetSpec, stage: Callable[[Work], Any], **options: Any) -> StageOperator:
    """A Python stage as a task named after its function."""
    return StageOperator(dataset=spec.name, stage=stage, owner=spec.owner, **options)


def spark_stage(spec: DatasetSpec, stage: str, doc: str, **options: Any) -> SparkStageOperator:
    """A job of spark_jobs/ as a task of the same name."""
    partition = partition_template(spec)
    return SparkStageOperator(
        dataset=spec.name,
        partition=partition,
        stage=stage,
        doc_md=doc,
        owner=spec.owner,
        **options,
    )


class ApprovalStage(ApprovalOperator):
    """Asks whether the chosen model may serve, and notes the answer in the gate's decision. Nobody is asked
    about a model that the gate has refused: publish says why."""

    def __init__(self, *, dataset: str, **options: Any) -> None:
        self.dataset = dataset
        super().__init__(doc_md=self.__doc__, **options)

    def execute(self, context: Context) -> Any:
        """Ask, where the gate has let the model pass."""
        decision = self._decision(context)
        if not decision["passed"]:
            log.info("nobody is asked: %s", " ".join(decision["reasons"]))
            return None
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Note the answer, and let publish run or skip it."""
        from sightline import models
        from sightline.catalog import open_catalog

        if event.get("error_type") == "timeout":
            hours = (self.response_timeout or timedelta()) / timedelta(hours=1)
            raise AirflowFailException(
                f"Nobody has answered within {hours:g} hours, so the champion stays; clear task approve "
                "to be asked again."
            )
        if "error" not in event:
            answer = {
                "answer": event["chosen_options"][0],
                "by": (event["responded_by_user"] or {}).get("name", "somebody"),
                "at": event["responded_at"].isoformat(timespec="seconds"),
            }
            decision = {**self._decision(context), "approval": answer}
            models.write_decision(open_catalog(self.dataset), self._version(context), decision)
        return super().execute_complete(context, event)

    def _version(self, context: Context) -> str:
        return str(context["ti"].xcom_pull(task_ids="plan"))

    def _decision(self, context: Context) -> dict[str, Any]:
        from sightline import models
        from sightline.catalog import open_catalog

        decision = models.read_decision(open_catalog(self.dataset), self._version(context))
        assert decision is not None  # the gate comes before
        return decision


def approval_stage(spec: DatasetSpec) -> ApprovalStage:
    """The task that asks a person; an answer that does not come fails it, with no second try."""
    return ApprovalStage(
        dataset=spec.name,
        task_id="approve",
        subject=f"Shall the new model of {spec.name} serve?",
        body=APPROVAL,
        response_timeout=timedelta(hours=spec.gate.approval_hours),
        retries=0,
    )


def wait_for_ingests(spec: DatasetSpec) -> Any:
    """A task that waits while ingest runs of the dataset are queued or running."""

    @task.sensor(task_id="wait_for_ingests", poke_interval=2, timeout=7 * 86_400, mode="reschedule")
    def wait(ti: Any = None) -> bool:
        """Waits while ingests of this dataset are queued or running, so that a backfill trains once."""
        count = ti.get_dr_count(dag_id=f"ingest_{spec.name}", states=["queued", "running"])
        log.info("%d ingest runs of %s are queued or running", count, spec.name)
        return bool(count == 0)

    return wait()


def refusing_dag(dag_id: str, sentence: str) -> DAG:
    """Stands in for a dataset file that cannot be read: the other datasets' DAGs are not harmed, and
    the UI shows what is wrong with this one."""

    def preflight() -> None:
        raise AirflowFailException(sentence)

    with DAG(dag_id, description=sentence, schedule=None, tags=["sightline", "broken"]) as dag:
        PythonOperator(task_id="preflight", python_callable=preflight, doc_md=sentence)
    return dag
