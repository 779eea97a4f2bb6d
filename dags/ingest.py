"""ingest_<dataset>, one for every file in include/datasets: from a source's list to features.

Nightly by partition; `sightline backfill <dataset> --from 2026-01-01 --to 2026-01-31` fills the past.
"""

from datetime import timedelta

from airflow.sdk import DAG, BaseOperator, CronPartitionTimetable, chain

from sightline import stages
from sightline.alerting import lateness
from sightline.config import DatasetSpec
from sightline.operators import FLICKR_POOL
from sightline.orchestration import (
    RETRIES,
    dataset_dags,
    features_asset,
    python_stage,
    spark_stage,
)
from sightline.spark_workers import FETCH_WORKERS, TORCH_WORKERS

LIST = "Joins the source's tables and writes the images that it asks for into the manifest."
FETCH = (
    "Fetches, verifies, measures and hashes what is listed and not held; bad ones go to rejects."
)
FEATURIZE = "Embeds the images that have no features of this backbone yet; never one twice."
FETCHING = {"conf": FETCH_WORKERS, "counts_if_done": stages.nothing_to_fetch}
FEATURIZING = {"conf": TORCH_WORKERS, "counts_if_done": stages.nothing_to_featurize}


def list_stage(spec: DatasetSpec) -> BaseOperator:
    """The task that lists the source: Open Images' tables are joined in Spark, the others need no JVM."""
    if spec.source.type == "open_images":
        return spark_stage(spec, "list_images", LIST)
    pool = {"pool": FLICKR_POOL} if spec.source.type == "flickr" else {}
    return python_stage(spec, stages.list_images, **pool)


def build(spec: DatasetSpec) -> DAG:
    """The ingest DAG of one dataset."""
    nightly = spec.schedule and CronPartitionTimetable(
        spec.schedule,
        timezone="UTC",
        key_format="%Y-%m-%d",
        run_offset=-1,  # tonight's run takes the day that has ended
        # else unpausing soon after midnight runs last night's
        run_immediately=timedelta(seconds=1),
    )
    with (
        DAG(
            dag_id=f"ingest_{spec.name}",
            description=spec.description or f"Images and features of {spec.name}.",
            schedule=nightly or None,
            catchup=False,
            max_active_runs=4,  # a backfill's partitions run side by side; the pool bounds the Spark jobs
            deadline=lateness(spec),
            default_args=RETRIES,
            tags=["sightline", "ingest", spec.name],
            doc_md=__doc__,
        ) as dag
    ):
        chain(
            python_stage(spec, stages.preflight),
            list_stage(spec),
            python_stage(spec, stages.validate_manifest),
            spark_stage(spec, "fetch_images", FETCH, **FETCHING),
            python_stage(spec, stages.validate_images),
            python_stage(spec, stages.inspect_images),
            spark_stage(spec, "featurize", FEATURIZE, **FEATURIZING),
            python_stage(spec, stages.measure_drift),
            python_stage(spec, stages.validate_features, outlets=[features_asset(spec.name)]),
        )
    return dag


globals().update(dataset_dags("ingest", build, refuses=True))
