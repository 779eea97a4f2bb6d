"""What the DAGs are made of: a dataset's stages as tasks, their retries, and the assets between DAGs.

A Python stage is a function of `Work`, its docstring the text that the person on call reads in the UI;
a Spark stage is a program in spark_jobs/. Stages are imported inside tasks, so a DAG file parses fast.
"""

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import (
    DAG,
    Asset,
    BaseOperator,
    FixedKeyMapper,
    PartitionedAssetTimetable,
    task,
)
from airflow.sdk.exceptions import AirflowFailException

from sightline.alerting import alert_failure
from sightline.config import DatasetSpec, dataset_files, read_dataset
from sightline.errors import ConfigError
from sightline.operators import ApprovalStage, SparkStageOperator, StageOperator
from sightline.work import WHOLE, Work, partition_template

log = logging.getLogger(__name__)

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
    "on_failure_callback": alert_failure,  # not of a try, but of the last
}


def features_asset(dataset: str) -> Asset:
    """The asset whose change starts the training."""
    return Asset(f"features_{dataset}", f"sightline://{dataset}/features")


def model_asset(dataset: str) -> Asset:
    """The asset that changes when another champion serves."""
    return Asset(f"model_{dataset}", f"sightline://{dataset}/champion")


def python_stage(spec: DatasetSpec, stage: Callable[[Work], Any], **options: Any) -> StageOperator:
    """A Python stage as a task named after its function."""
    return StageOperator(dataset=spec.name, stage=stage, owner=spec.owner, **options)


def spark_stage(spec: DatasetSpec, stage: str, doc: str, **options: Any) -> BaseOperator:
    """A job of spark_jobs/ as a task of the same name, where the dataset's `compute` has it run."""
    return _spark_operator(spec)(
        dataset=spec.name,
        partition=partition_template(spec),
        stage=stage,
        doc_md=doc,
        owner=spec.owner,
        **options,
    )


def _spark_operator(spec: DatasetSpec) -> Callable[..., BaseOperator]:
    if spec.compute.where == "spark":
        return SparkStageOperator
    from sightline import emr_operators  # a second of imports, for those who use it

    return emr_operators.OPERATORS[spec.compute.where]


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
        return not _count_runs(ti, spec.name, ("ingest",))

    return wait()


def wait_for_runs() -> Any:
    """A task that waits while any run of the dataset in the DAG's parameters is running."""

    @task.sensor(task_id="wait_for_runs", poke_interval=5, timeout=7 * 86_400, mode="reschedule")
    def wait(ti: Any = None, params: Any = None) -> bool:
        """Waits while an ingest, a training or a prediction of the dataset is queued or running."""
        return not _count_runs(ti, params["dataset"], ("ingest", "train", "predict"))

    return wait()


def clean_shared() -> Any:
    """A task that removes what is of no dataset: old logs, what killed Spark drivers have left, old code."""

    @task(task_id="clean_shared")
    def clean() -> None:
        """Removes logs of months ago, what killed Spark drivers have left on this machine, and code that no
        job of late was sent with."""
        from datetime import UTC, datetime

        from airflow.sdk.configuration import conf

        from sightline import shared_maintenance
        from sightline.settings import load_settings

        scratch = filter(None, os.environ.get("SPARK_LOCAL_DIRS", "").split(","))
        logs = conf.get("logging", "base_log_folder")
        shared_maintenance.clean(load_settings(), logs, scratch, datetime.now(UTC))

    return clean()


def _count_runs(ti: Any, dataset: str, kinds: tuple[str, ...]) -> int:
    """Queued and running runs of a dataset's DAGs."""
    states = ["queued", "running"]
    counts = {kind: ti.get_dr_count(dag_id=f"{kind}_{dataset}", states=states) for kind in kinds}
    for kind, count in counts.items():
        log.info("%d %s runs of %s are queued or running", count, kind, dataset)
    return sum(counts.values())


def when_changed(asset: Asset) -> PartitionedAssetTimetable:
    """The schedule of what follows an asset; all partitions become one key, so a backfill starts one run."""
    return PartitionedAssetTimetable(assets=asset, default_partition_mapper=FixedKeyMapper(WHOLE))


def dataset_dags(
    kind: str, build: Callable[[DatasetSpec], DAG], refuses: bool = False
) -> dict[str, DAG]:
    """The DAGs <kind>_<dataset> of all dataset files, by their ids. A file that cannot be read is left out
    but where this kind refuses: there a DAG stands in the UI and says what is wrong with it."""
    dags = {}
    for path in dataset_files():
        dag_id = f"{kind}_{path.stem}"
        try:
            dags[dag_id] = build(read_dataset(path))
        except ConfigError as error:
            if refuses:
                dags[dag_id] = refusing_dag(dag_id, str(error))
    return dags


def refusing_dag(dag_id: str, sentence: str) -> DAG:
    """Stands in for a dataset file that cannot be read: the other datasets' DAGs are not harmed, and
    the UI shows what is wrong with this one."""

    def preflight() -> None:
        raise AirflowFailException(sentence)

    with DAG(dag_id, description=sentence, schedule=None, tags=["sightline", "broken"]) as dag:
        PythonOperator(task_id="preflight", python_callable=preflight, doc_md=sentence)
    return dag
