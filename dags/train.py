"""train_<dataset>, one for every file in include/datasets: from features to a published classifier.

Starts when the features asset changes, waits while ingests of the dataset are running, so that a
backfill trains once, and stops at once when the champion already knows these features. The candidates are
trained side by side and judged together; the better one serves if the gate lets it.
"""

from airflow.sdk import DAG, BaseOperator, chain

from sightline import stages
from sightline.config import DatasetSpec
from sightline.orchestration import (
    RETRIES,
    VERSION,
    approval_stage,
    dataset_dags,
    features_asset,
    model_asset,
    python_stage,
    spark_stage,
    wait_for_ingests,
    when_changed,
)
from sightline.spark_workers import TORCH_WORKERS

REDUCE = "Fits PCA on the train split only and projects every embedding."
TRAIN = "Fits the head on the train split, its settings chosen by cross-validation."
FINE_TUNE = "Trains the network on the train images; another try goes on after its last epoch."
SCORE = "Lets the fine-tuned network say of each test image what it shows."


def build(spec: DatasetSpec) -> DAG:
    """The training DAG of one dataset."""
    with DAG(
        dag_id=f"train_{spec.name}",
        description=f"A classifier of {spec.name}, with its evaluation and report.",
        schedule=when_changed(features_asset(spec.name)),
        catchup=False,
        max_active_runs=1,
        default_args=RETRIES,
        tags=["sightline", "train", spec.name],
        doc_md=__doc__,
    ) as dag:
        split, evaluate = python_stage(spec, stages.split), python_stage(spec, stages.evaluate)
        audit = python_stage(spec, stages.audit_labels)
        chain(wait_for_ingests(spec), python_stage(spec, stages.plan), split, audit)
        for branch in candidates(spec):
            chain(audit, *branch, evaluate)
        chain(
            evaluate,
            python_stage(spec, stages.gate),
            python_stage(spec, stages.report),
            *([approval_stage(spec)] if spec.gate.approval else []),
            python_stage(spec, stages.publish, outlets=[model_asset(spec.name)]),
        )
    return dag


def candidates(spec: DatasetSpec) -> list[list[BaseOperator]]:
    """The tasks that train each candidate, side by side."""
    branches = []
    if spec.train:
        reduce = spark_stage(spec, "reduce", REDUCE, more_args=[VERSION])
        train = spark_stage(spec, "train", TRAIN, more_args=[VERSION], quick=False)
        branches.append([reduce, train])
    if spec.fine_tune:
        fine_tune = spark_stage(spec, "fine_tune", FINE_TUNE, more_args=[VERSION])
        score = spark_stage(spec, "score", SCORE, more_args=[VERSION], conf=TORCH_WORKERS)
        branches.append([fine_tune, score])
    return branches


globals().update(dataset_dags("train", build))
