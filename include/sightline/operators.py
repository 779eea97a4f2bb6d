"""Airflow's operators for our stages: run here, submitted to Spark, or asked of a person; with pools and
lineage.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.spark.hooks.spark_submit import SparkSubmitHook
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import Context, get_current_context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from sightline import memory
from sightline.config import load_dataset
from sightline.errors import REFUSED, SightlineError
from sightline.settings import load_settings
from sightline.work import WHOLE, Work, current_task

if TYPE_CHECKING:
    from sightline.catalog import Catalog
    from sightline.ledger import TaskRun
    from sightline.spark_memory import Held

log = logging.getLogger(__name__)

SPARK_POOL = "sightline_spark"  # one slot a machine: two Spark drivers would fight for its cores
FLICKR_POOL = "sightline_flickr"  # one slot: one key's queries an hour are counted across all tasks
PRINTED_LINES = 1_000  # of a Spark job, in which the reason of its failure is looked for


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
        from sightline import spark, spark_memory

        held = spark_memory.Held()
        self._printed = deque[str](maxlen=PRINTED_LINES)
        try:
            if self.is_done(context):
                return
            compute = load_dataset(self.dataset).compute
            # On EMR they are EMR's: a scaling study runs here all the same.
            own = compute.conf if compute.where == "spark" else {}
            self.conf = {**spark.submit_conf(self.quick), **(self.conf or {}), **own}
            with spark_memory.watching(self._submitted_pid) as held:
                super().execute(context)
        except SightlineError as error:
            raise failure_of(error) from None
        except AirflowException as error:
            final = self._final_reason("\n".join([*self._printed, str(error)]), held)
            if final:
                raise AirflowFailException(final) from None
            raise
        finally:
            if held.peak_bytes:
                log.info("%s held %s at most", self.task_id, memory.shown(held.peak_bytes))

    def _get_hook(self) -> SparkSubmitHook:
        """The hook, which keeps what spark-submit prints: its error holds only the last 20 lines, which are
        the end of a stack trace."""
        hook = super()._get_hook()
        process = hook._process_spark_submit_log

        def keep(lines: Iterator[str]) -> Iterator[str]:
            for line in lines:
                self._printed.append(line.strip())
                yield line

        hook._process_spark_submit_log = lambda itr: process(keep(itr))  # type: ignore[method-assign]
        return hook

    def _submitted_pid(self) -> int | None:
        submitted = getattr(self._hook, "_submit_sp", None)  # before the submission, there is none
        return submitted.pid if submitted else None

    def _final_reason(self, text: str, held: "Held") -> str | None:
        """Why another try would fail alike: the job's own refusal, or its memory; None if one may help."""
        from sightline import spark_memory

        refused = re.search(rf"{REFUSED}(.+)", text)
        if refused and spark_memory.KILLED not in refused[1]:
            return refused[1].strip()
        heap = (self.conf or {}).get("spark.driver.memory", "1g")
        reason = spark_memory.explain_failure(self.task_id, text, held, heap)
        return reason or (refused[1].strip() if refused else None)


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
