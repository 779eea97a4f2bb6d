"""scaling_study: what more workers and other batch sizes give, in images a second, accuracy and money.

Trigger it in the UI with a dataset whose train_<dataset> has run; its page lies beside the reports.
"""

from typing import Any

from airflow.sdk import DAG, Param, chain

from sightline import stages
from sightline.config import dataset_files
from sightline.operators import SparkStageOperator, StageOperator
from sightline.orchestration import RETRIES
from sightline.work import WHOLE

STUDY = "Trains the dataset's network once for each number of workers and each batch size."
DATASET = "{{ params.dataset }}"
NUMBERS: dict[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 1},
    "minItems": 1,
}
NAMES = [path.stem for path in dataset_files()]

if NAMES:
    with DAG(
        dag_id="scaling_study",
        description="Images a second, efficiency, accuracy and cost against workers and batch size.",
        schedule=None,
        default_args=RETRIES,
        tags=["sightline", "study"],
        params={
            "dataset": Param("digits" if "digits" in NAMES else NAMES[0], enum=NAMES),
            "workers": Param([1, 2], description="training processes", **NUMBERS),
            "batch_sizes": Param(
                [32, 64], description="images, of all workers together", **NUMBERS
            ),
            "epochs": Param(1, type="integer", minimum=1),
            "price_per_hour": Param(
                0.0, type="number", minimum=0, description="of one worker, in your currency"
            ),
        },
        doc_md=__doc__,
    ):
        chain(
            SparkStageOperator(
                dataset=DATASET,
                partition=WHOLE,
                stage="scaling_study",
                doc_md=STUDY,
                more_args=["{{ params | tojson }}"],
            ),
            StageOperator(dataset=DATASET, stage=stages.report_study),
        )
