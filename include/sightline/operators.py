"""Airflow's operators for our stages: run here, submitted to Spark, or asked of a person; with pools and
lineage.
"""

import logging
import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import Context, get_current_context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from sightline.config import load_dataset
from sightline.errors import REFUSED, SightlineError
from sightline.settings import load_settings
from sightline.work import WHOLE, Work, current_task

if TYPE_CHECKING:
    from sightline.catalog import Catalog
    from sightline.ledger import TaskRun

log = logging.getLogger(__name__)

SPARK_POOL = "sightline_spark"  # one slot a machine: two Spark drivers would fight for its cores
FLICKR_POOL = "sightline_flickr"  # one slot: one key's queries an hour are counted across all tasks


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
            task_id=stage.__name__,
            doc_md=stage.__doc__,
            python_callable=self.run_stage,
            op_args=[dataset],  # a bound method would see the name as it was before rendering
            **options,
        )

    def run_stage(self, dataset: str) -> Any:
        """Call the stage for a dataset."""
        from sightline import ledger
        from sightline.catalog import open_catalog

        context = get_current_context()
        catalog = open_catalog(dataset)
        try:
            spec = load_dataset(dataset)
            task = current_task(context, spec, self.task_id)
            with ledger.recording(catalog, task) as record:
                result = self.stage(Work(spec, catalog, task, record, context))
        except SightlineError as error:
            raise failure_of(error) from None
        log.info("%s finished in %.1f s: %s", self.task_id, record.seconds, record.counts)
        return result


def failure_of(error: SightlineError) -> AirflowException:
    """What a task fails with: without another try, but where one may mend it."""
    kind = AirflowException if error.may_pass else AirflowFailException
    return kind(str(error))


class SparkStage(TableLineage):
    """What a Spark stage is wherever it runs. `counts_if_done` looks without Spark whether there is anything
    to do."""

    counts_if_done: Callable[[Work], Any] | None

    def is_done(self, context: Context) -> bool:
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


class SparkStageOperator(SparkStage, SparkSubmitOperator):
    """Submits a stage's Spark job; what the job refuses in a sentence fails without another try."""

    template_fields = (*SparkSubmitOperator.template_fields, "dataset")

    def __init__(
        self, *, dataset: str, partition: str, stage: str, doc_md: str, **options: Any
    ) -> None:
        self.dataset = dataset
        self.code = f"spark_jobs/{stage}.py"
        self.quick = options.pop("quick", True)
        self.counts_if_done = options.pop("counts_if_done", None)
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

        try:
            if self.is_done(context):
                return
            self.conf = {**spark.submit_conf(self.quick), **(self.conf or {})}
            super().execute(context)
        except SightlineError as error:
            raise failure_of(error) from None
        except AirflowException as error:
            refused = re.search(rf"{REFUSED}(.+)", str(error))
            if refused:
                raise AirflowFailException(refused[1].strip()) from None
            raise


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
