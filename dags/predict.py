"""predict_<dataset>, one for every file in include/datasets: the champion's answers on unlabelled images.

Starts when another champion serves, and by hand. The answers lie in the table `answers` and in
predicted/<version>.csv; a competition's submission lies beside, in the form of its sample file.
"""

from airflow.sdk import DAG, Param, chain

from sightline import stages
from sightline.config import DatasetSpec
from sightline.orchestration import (
    RETRIES,
    WANTED,
    dataset_dags,
    model_asset,
    python_stage,
    spark_stage,
    when_changed,
)
from sightline.source_config import KaggleSource
from sightline.spark_workers import TORCH_WORKERS

SCORE = "Lets a fine-tuned champion look at images that came after it; of a head there is nothing to do."
SCORING = {
    "more_args": [WANTED],
    "conf": TORCH_WORKERS,
    "counts_if_done": stages.nothing_to_score,
}


def build(spec: DatasetSpec) -> DAG:
    """The prediction DAG of one dataset."""
    with DAG(
        dag_id=f"predict_{spec.name}",
        description=f"What the champion says of images of {spec.name} that nobody has labelled.",
        schedule=when_changed(model_asset(spec.name)),
        catchup=False,
        max_active_runs=1,
        default_args=RETRIES,
        tags=["sightline", "predict", spec.name],
        params={
            "images": Param("unlabelled", enum=["unlabelled", "all"]),
            "partition": Param(
                None,
                type=["null", "string"],
                description="also the images of this partition, such as 2026-11-05",
            ),
        },
        doc_md=__doc__,
    ) as dag:
        competes = isinstance(spec.source, KaggleSource) and spec.source.submission
        chain(
            python_stage(spec, stages.choose_images),
            spark_stage(spec, "score_new", SCORE, **SCORING),
            python_stage(spec, stages.predict),
            *([python_stage(spec, stages.submit)] if competes else []),
        )
    return dag


globals().update(dataset_dags("predict", build))
