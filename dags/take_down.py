"""take_down: removes images from every table and file of a dataset, for good; no later night fetches them.

Trigger it in the UI with a dataset, a reason, and one of image ids, uris, an author and a licence. It waits
until no ingest, training or prediction of the dataset is running. Models that were trained on the images
stay, and say so; docs/licences.md tells what else is left.
"""

from typing import Any

from airflow.sdk import DAG, Param, chain

from sightline import stages
from sightline.config import dataset_files
from sightline.operators import StageOperator
from sightline.orchestration import RETRIES, wait_for_runs

NAMES = [path.stem for path in dataset_files()]
ONE = ["null", "string"]
MANY: dict[str, Any] = {"type": "array", "items": {"type": "string"}}

if NAMES:
    with DAG(
        dag_id="take_down",
        description="Removes images of a dataset from every table and file, for good.",
        schedule=None,
        max_active_runs=1,
        default_args=RETRIES,
        tags=["sightline", "take-down"],
        params={
            "dataset": Param("digits" if "digits" in NAMES else NAMES[0], enum=NAMES),
            "reason": Param("", type="string", description="why; kept in the models' descriptions"),
            "author": Param(None, type=ONE, description="all of an author, future ones too"),
            "licence": Param(
                None, type=ONE, description="all under a licence, as the source names it"
            ),
            "uris": Param([], description="or these addresses", **MANY),
            "image_ids": Param([], description="or these images", **MANY),
        },
        doc_md=__doc__,
    ):
        chain(
            wait_for_runs(),
            StageOperator(dataset="{{ params.dataset }}", stage=stages.take_down),
        )
