"""maintenance: every night's clean-up of all datasets, one after the other.

Old models are retired, small files merged, and what no table, model or running task needs is removed;
`keep:` in a dataset file says how long what stays, docs/reliability.md what goes. `sightline maintain
<dataset>` does the same by hand.
"""

from datetime import timedelta

from airflow.sdk import DAG, TaskGroup

from sightline import stages
from sightline.config import dataset_files
from sightline.operators import StageOperator
from sightline.orchestration import RETRIES, clean_shared

NAMES = [path.stem for path in dataset_files()]

if NAMES:
    with DAG(
        dag_id="maintenance",
        description="Removes what no table, model or running task needs any more.",
        schedule="0 4 * * *",
        catchup=False,
        max_active_runs=1,
        max_active_tasks=1,  # it is in no hurry, and the nights' runs may be at work
        dagrun_timeout=timedelta(hours=20),
        default_args=RETRIES,
        tags=["sightline", "maintenance"],
        doc_md=__doc__,
    ):
        clean_shared()
        for name in NAMES:
            with TaskGroup(name):
                StageOperator(dataset=name, stage=stages.maintain)
