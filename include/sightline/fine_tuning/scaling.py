"""The scaling study: the same training with more workers and other batch sizes, what each gives and costs.

Speed against workers says whether a cluster pays; accuracy beside it whether the larger batch still learns.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sightline import models, storage, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import ConfigError
from sightline.fine_tune_config import FineTuneSpec
from sightline.fine_tuning import distributed, prepare_job
from sightline.fine_tuning.training_set import TrainingSet, build_training_set
from sightline.ledger import Record, TaskRun
from sightline.schemas import SCALING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudySpec:
    """What is asked of a study, as the DAG's parameters say it."""

    workers: tuple[int, ...]
    batch_sizes: tuple[int, ...]  # of all workers together
    epochs: int
    price_per_hour: float  # of a worker, in whatever currency

    @classmethod
    def of(cls, params: dict[str, Any]) -> "StudySpec":
        """Checked at the door; ConfigError names the parameter."""
        workers, sizes = (
            tuple(sorted({int(value) for value in params[name]}))
            for name in ("workers", "batch_sizes")
        )
        epochs, price = int(params["epochs"]), float(params["price_per_hour"])
        if not workers or workers[0] < 1 or not sizes:
            raise ConfigError("A scaling study needs numbers of workers from 1 and batch sizes.")
        uneven = [
            (count, size) for count in workers for size in sizes if size % count or size < 2 * count
        ]
        if uneven:
            raise ConfigError(
                f"A batch of {uneven[0][1]} images gives {uneven[0][0]} workers no equal shares of two or "
                "more; change batch_sizes or workers."
            )
        if epochs < 1 or price < 0:
            raise ConfigError(
                f"epochs is {epochs} and price_per_hour {price}; give 1 and 0 or more."
            )
        return cls(workers, sizes, epochs, price)


def study(
    session: "SparkSession",
    spec: DatasetSpec,
    catalog: Catalog,
    task: TaskRun,
    record: Record,
    asked: StudySpec,
) -> None:
    """Train every setting from the same start and keep one row of each in the table `scaling`.

    Settings that an earlier try of the same run has measured are not trained again.
    """
    record.read(catalog.images, catalog.splits)
    folder = storage.join(catalog.staging, f"scaling-{storage.safe_name(task.run_id)}")
    fine_tune = spec.fine_tune or FineTuneSpec()
    plan = models.make_plan(spec, catalog, "")
    images = build_training_set(spec, catalog, plan, fine_tune.validation_share, folder)
    held = tables.claim(catalog.scaling, task.writer)
    kept_url = storage.join(folder, "rows.json")
    rows: list[dict[str, Any]] = storage.read_json(kept_url) or []
    done = {(row["workers"], row["batch_size"]) for row in rows}
    for setting in _settings(asked, fine_tune):
        if (setting.processes, setting.batch_size) not in done:
            rows.append(_measure(session, spec, images, setting, asked, folder))
            storage.write_json(kept_url, rows)
    whole = [{"study": task.run_id, **row} for row in with_efficiency(rows)]
    urls = tables.write_batches(
        catalog.scaling, [pa.RecordBatch.from_pylist(whole, schema=SCALING)]
    )
    tables.replace_partition(catalog.scaling, urls, task.run_id, held)
    storage.remove_tree(folder)
    best = max(whole, key=lambda row: row["images_per_second"])
    record.counts = {"settings": len(whole), "fastest": f"{best['workers']} x {best['batch_size']}"}
    record.wrote(catalog.scaling)


def with_efficiency(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with its efficiency: its speed a worker, against that of the fewest workers with the same
    batch size.
    """
    fewest: dict[int, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["workers"]):
        fewest.setdefault(row["batch_size"], row)
    return [
        {**row, "efficiency": _speed_a_worker(row) / _speed_a_worker(fewest[row["batch_size"]])}
        for row in rows
    ]


def _speed_a_worker(row: dict[str, Any]) -> float:
    return float(row["images_per_second"] / row["workers"])


def _settings(asked: StudySpec, fine_tune: FineTuneSpec) -> Iterator[FineTuneSpec]:
    for size in asked.batch_sizes:
        for workers in asked.workers:
            changed = {"processes": workers, "batch_size": size, "epochs": asked.epochs}
            alike = {"phases": (), "search": None, "early_stop_epochs": None, "keep": "last"}
            yield fine_tune.model_copy(update={**changed, **alike})


def _measure(
    session: "SparkSession",
    spec: DatasetSpec,
    images: TrainingSet,
    setting: FineTuneSpec,
    asked: StudySpec,
    folder: str,
) -> dict[str, Any]:
    place = storage.join(folder, f"{setting.processes}x{setting.batch_size}")
    storage.remove_tree(place)  # a half-measured setting is measured whole
    job = replace(
        prepare_job(setting, spec.backbone, images, place),
        threads=_threads(session, asked),
        memory_bytes=spec.limits.memory,
    )
    history = distributed.train(session, job)
    seconds = sum(epoch.seconds for epoch in history)
    seen = sum(epoch.seconds * epoch.images_per_second for epoch in history)
    cost = setting.processes * asked.price_per_hour * seconds / 3600
    row = {
        "workers": setting.processes,
        "batch_size": setting.batch_size,
        "epochs": len(history),
        "images_per_second": seen / seconds,
        "accuracy": history[-1].validation_accuracy,
        "seconds": seconds,
        "cost": cost,
    }
    storage.remove_tree(place)
    log.info("scaling_study: %(workers)d workers, batches of %(batch_size)d: %(images_per_second).1f "
             "images a second, validation accuracy %(accuracy).4f", row)  # fmt: skip
    return row


def _threads(session: "SparkSession", asked: StudySpec) -> int | None:
    """On one machine, each worker's share of the cores where all are at work: a worker is as strong alone
    as among others. On a cluster an executor's cores are its own.
    """
    if not str(session.sparkContext.master).startswith("local"):
        return None
    return max(1, len(os.sched_getaffinity(0)) // max(asked.workers))
