"""What the ingest DAG does in Python, as a process of its own and without Airflow: the listing, and the
look whether a Spark job has anything to do.

    python -m benchmarks.python_task list_images|nothing_to_fetch_images|nothing_to_featurize DATASET
"""

import sys
import time
from typing import Any

from sightline import featurization, ingestion
from sightline.catalog import Catalog, open_catalog
from sightline.config import DatasetSpec, load_dataset
from sightline.ledger import TaskRun, recording, task_from_environment
from sightline.sources import Access


def list_images(spec: DatasetSpec, catalog: Catalog) -> Any:
    """As stages.list_images."""
    task = task_from_environment("list_images")
    with recording(catalog, task) as record:
        ingestion.list_images(spec, Access(catalog, task.partition), task, record)
    return record.counts


def nothing_to_fetch_images(spec: DatasetSpec, catalog: Catalog) -> Any:
    """As stages.nothing_to_fetch; where there is nothing, the task's record says so."""
    task = task_from_environment("fetch_images")
    return _noted(catalog, task, ingestion.counts_if_done(spec, catalog, task.partition))


def nothing_to_featurize(spec: DatasetSpec, catalog: Catalog) -> Any:
    """As stages.nothing_to_featurize; where there is nothing, the task's record says so."""
    task = task_from_environment("featurize")
    return _noted(catalog, task, featurization.counts_if_done(spec, catalog, task.dag_id))


def _noted(catalog: Catalog, task: TaskRun, counts: dict[str, Any] | None) -> Any:
    if counts is not None:
        with recording(catalog, task) as record:
            record.counts = counts
    return counts


STAGES = {
    "list_images": list_images,
    "nothing_to_fetch_images": nothing_to_fetch_images,
    "nothing_to_featurize": nothing_to_featurize,
}


def main() -> None:
    """Run one of them, and say what it counted as the Spark jobs do."""
    stage, dataset = sys.argv[1:]
    began = time.monotonic()
    counts = STAGES[stage](load_dataset(dataset), open_catalog(dataset))
    task = stage.removeprefix("nothing_to_")
    print(f"{task} {dataset} finished in {time.monotonic() - began:.1f} s: {counts}")


if __name__ == "__main__":
    main()
