"""What every Spark job does around its one library call: arguments, logging, session, record, errors."""

import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from sightline import ingestion, ledger, models, spark, spark_watch, wanted_images
from sightline.catalog import Catalog, open_catalog
from sightline.config import load_dataset
from sightline.errors import REFUSED, SightlineError, StorageError
from sightline.sources import Access


def run(task: str, stage: Callable[..., None], prepare: Callable[[], None] = lambda: None) -> None:
    """Run an ingest stage: `<job>.py DATASET`. `prepare` runs in a thread while Spark starts."""
    threading.Thread(target=prepare, daemon=True).start()
    _guard(task, stage, sys.argv[1])


def run_listing() -> None:
    """List a source whose listing is a Spark job of its own: `list_images.py DATASET`."""

    def list_images(session: Any, spec: Any, catalog: Catalog, task: Any, record: Any) -> None:
        ingestion.list_images(spec, Access(catalog, task.partition), task, record)

    _guard("list_images", list_images, sys.argv[1])


def run_planned(task: str, stage: Callable[..., None]) -> None:
    """Run a training stage on the inputs that its plan has fixed: `<job>.py DATASET VERSION`."""
    dataset, version = sys.argv[1:3]

    def planned(session: Any, spec: Any, catalog: Catalog, *rest: Any) -> None:
        stage(session, spec, catalog, *rest, models.read_plan(catalog, version))

    _guard(task, planned, dataset)


def run_wanted(task: str, stage: Callable[..., None]) -> None:
    """Run a stage of the prediction on what was chosen when it began: `<job>.py DATASET WANTED`."""
    dataset, text = sys.argv[1:3]

    def wanted(session: Any, spec: Any, *rest: Any) -> None:
        stage(session, *rest, wanted_images.from_text(text))

    _guard(task, wanted, dataset)


def run_study() -> None:
    """Run a scaling study: `scaling_study.py DATASET PARAMETERS`, the DAG's parameters as JSON."""
    from sightline.fine_tuning import scaling

    dataset, parameters = sys.argv[1:3]

    def study(session: Any, spec: Any, catalog: Catalog, task: Any, record: Any) -> None:
        asked = scaling.StudySpec.of(json.loads(parameters))
        scaling.study(session, spec, catalog, task, record, asked)

    _guard("scaling_study", study, dataset)


def _guard(task: str, stage: Callable[..., None], dataset: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        _run(task, stage, dataset)
    except SightlineError as error:
        if error.may_pass:
            raise
        _refuse(error)
    except Exception as error:
        if "No space left on device" not in str(error):
            raise
        _refuse(_disk_full(dataset))


def _refuse(error: SightlineError) -> NoReturn:
    logging.error("%s%s", REFUSED, " ".join(str(error).split()))
    sys.exit(2)


def _disk_full(dataset: str) -> StorageError:
    root = open_catalog(dataset).root
    return StorageError(
        f"The disk is full at {root} or in Spark's temporary folder; what was committed is kept. "
        "Make room, or set SIGHTLINE_STORAGE to a larger place, and clear the task."
    )


def _run(task: str, stage: Callable[..., None], dataset: str) -> None:
    spec, catalog = load_dataset(dataset), open_catalog(dataset)
    task_run = ledger.task_from_environment(task)
    session = spark.start_session(f"{task} {dataset}")
    try:
        with ledger.recording(catalog, task_run) as record, spark_watch.watching(session):
            stage(session, spec, catalog, task_run, record)
    finally:
        session.stop()
    counts = ", ".join(f"{name} {value}" for name, value in record.counts.items())
    logging.info("%s %s finished in %.1f s: %s", task, dataset, record.seconds, counts)
