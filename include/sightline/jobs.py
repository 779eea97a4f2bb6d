"""What every Spark job does around its one library call: arguments, logging, session, record, errors."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from sightline import ledger, models, spark
from sightline.catalog import open_catalog
from sightline.config import load_dataset
from sightline.errors import REFUSED, SightlineError, StorageError


def run(task: str, stage: Callable[..., None]) -> None:
    """Run an ingest stage: `<job>.py DATASET`."""
    _guard(task, stage, sys.argv[1], ())


def run_planned(task: str, stage: Callable[..., None]) -> None:
    """Run a training stage on the inputs that its plan has fixed: `<job>.py DATASET VERSION`."""
    dataset, version = sys.argv[1:3]
    _guard(task, stage, dataset, (models.read_plan(open_catalog(dataset), version),))


def _guard(task: str, stage: Callable[..., None], dataset: str, more: tuple[Any, ...]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    try:
        _run(task, stage, dataset, more)
    except SightlineError as error:
        logging.error("%s%s", REFUSED, error)
        sys.exit(2)
    except Exception as error:
        if "No space left on device" in str(error):
            logging.error("%s%s", REFUSED, _disk_full(dataset))
            sys.exit(2)
        raise


def _disk_full(dataset: str) -> StorageError:
    root = open_catalog(dataset).root
    return StorageError(
        f"The disk is full at {root} or in Spark's temporary folder; what was committed is kept. "
        "Make room, or set SIGHTLINE_STORAGE to a larger place, and clear the task."
    )


def _run(task: str, stage: Callable[..., None], dataset: str, more: tuple[Any, ...]) -> None:
    spec, catalog = load_dataset(dataset), open_catalog(dataset)
    session = spark.start_session(f"{task} {dataset}")
    try:
        with ledger.recording(catalog, ledger.task_from_environment(task)) as record:
            stage(session, spec, catalog, ledger.task_from_environment(task), record, *more)
    finally:
        session.stop()
    counts = ", ".join(f"{name} {value}" for name, value in record.counts.items())
    logging.info("%s %s finished in %.1f s: %s", task, dataset, record.seconds, counts)
