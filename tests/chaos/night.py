"""One night of a dataset as one process: `python -m tests.chaos.night DATASET PARTITION RUN`.

It is there to be killed. What Airflow remembers, which tasks have ended and the plan, is a file in the
state folder; started again, it goes on with the task that had not ended, as Airflow's next try does.
"""

import logging
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sightline import (
    drift,
    evaluation,
    featurization,
    gating,
    ingestion,
    inspection,
    label_audit,
    ledger,
    models,
    publishing,
    reduction,
    reporting,
    spark,
    splitting,
    storage,
    training,
    validation,
)
from sightline.catalog import Catalog, open_catalog
from sightline.config import DatasetSpec, load_dataset
from sightline.ledger import Record, TaskRun
from sightline.settings import load_settings
from sightline.sources import Access

log = logging.getLogger(__name__)


@dataclass
class Night:
    """A night at work."""

    spec: DatasetSpec
    catalog: Catalog
    partition: str
    run_id: str

    @cached_property
    def session(self) -> Any:
        """Spark, started by the first task that needs it."""
        return spark.start_session(self.run_id)

    @property
    def memory(self) -> str:
        """Where lies which tasks have ended."""
        return f"{load_settings().state}/{self.run_id}.json"

    @property
    def plan(self) -> models.Plan:
        """What this night trains on."""
        return models.read_plan(self.catalog, storage.read_json(self.memory)["plan"])

    @property
    def featurized(self) -> dict[str, Any]:
        """What the newest featurization has counted."""
        found = ledger.last_record(self.catalog, f"ingest_{self.spec.name}", "featurize")
        return dict(found["counts"])

    @property
    def access(self) -> Access:
        """What the source is given."""
        return Access(self.catalog, self.partition)


def list_images(night: Night, task: TaskRun, record: Record) -> None:
    ingestion.list_images(night.spec, night.access, task, record)


def validate_manifest(night: Night, task: TaskRun, record: Record) -> None:
    validation.validate_manifest(night.catalog, task, night.spec.limits)


def fetch_images(night: Night, task: TaskRun, record: Record) -> None:
    ingestion.fetch_images(night.session, night.spec, night.catalog, task, record)


def validate_images(night: Night, task: TaskRun, record: Record) -> None:
    validation.validate_images(night.catalog, task, night.spec.limits)


def inspect_images(night: Night, task: TaskRun, record: Record) -> None:
    inspection.inspect_images(night.spec, night.catalog, task, record)


def featurize(night: Night, task: TaskRun, record: Record) -> None:
    featurization.featurize(night.session, night.spec, night.catalog, task, record)


def measure_drift(night: Night, task: TaskRun, record: Record) -> None:
    backbone_id = night.featurized["backbone_id"]
    drift.measure_drift(night.spec, night.catalog, task, record, backbone_id)


def validate_features(night: Night, task: TaskRun, record: Record) -> None:
    found, limits = night.featurized, night.spec.limits
    validation.validate_features(night.catalog, task, found["backbone_id"], found["dim"], limits)


def plan(night: Night, task: TaskRun, record: Record) -> None:
    made = models.make_plan(night.spec, night.catalog, night.featurized["backbone_id"])
    reason = publishing.nothing_new(night.spec, night.catalog, made)
    if reason:
        log.info(reason)
        record.counts = {"skipped": reason}
        return
    models.write_plan(night.catalog, made)
    record.counts = {"plan": made.version}


def split(night: Night, task: TaskRun, record: Record) -> None:
    splitting.split_images(night.spec, night.catalog, task, record)
    models.fix_splits(night.catalog, night.plan)


def audit_labels(night: Night, task: TaskRun, record: Record) -> None:
    label_audit.audit_labels(night.spec, night.catalog, task, record, night.plan)


def reduce(night: Night, task: TaskRun, record: Record) -> None:
    reduction.reduce_features(night.session, night.spec, night.catalog, task, record, night.plan)


def train(night: Night, task: TaskRun, record: Record) -> None:
    training.train_classifier(night.session, night.spec, night.catalog, task, record, night.plan)


def evaluate(night: Night, task: TaskRun, record: Record) -> None:
    evaluation.evaluate(night.spec, night.catalog, task, record, night.plan)


def gate(night: Night, task: TaskRun, record: Record) -> None:
    gating.decide(night.spec, night.catalog, record, night.plan)


def report(night: Night, task: TaskRun, record: Record) -> None:
    ingest, version = f"ingest_{night.spec.name}", night.plan.version
    reporting.write_report(night.catalog, version, ingest, task.dag_id, task.run_id)


def publish(night: Night, task: TaskRun, record: Record) -> None:
    publishing.publish(night.catalog, record, night.plan)


INGEST: list[Callable[[Night, TaskRun, Record], None]] = [
    list_images, validate_manifest, fetch_images, validate_images, inspect_images, featurize,
    measure_drift, validate_features,
]  # fmt: skip
TRAIN: list[Callable[[Night, TaskRun, Record], None]] = [
    plan, split, audit_labels, reduce, train, evaluate, gate, report, publish,
]  # fmt: skip
STAGES = [stage.__name__ for stage in (*INGEST, *TRAIN)]


def run(night: Night) -> None:
    """Go on with a night until its end."""
    for kind, stages in (("ingest", INGEST), ("train", TRAIN)):
        for stage in stages:
            known = storage.read_json(night.memory) or {"done": [], "plan": None}
            if stage.__name__ in known["done"]:
                continue
            task = TaskRun(
                f"{kind}_{night.spec.name}", night.run_id, stage.__name__, night.partition
            )
            log.info("task %s begins", task.task)
            with ledger.recording(night.catalog, task) as record:
                stage(night, task, record)
            known["plan"] = record.counts.get("plan", known["plan"])
            storage.write_json(night.memory, {**known, "done": [*known["done"], task.task]})
            if "skipped" in record.counts:
                return


def main() -> None:
    """Run the night that the command line names."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    dataset, partition, run_id = sys.argv[1:]
    run(Night(load_dataset(dataset), open_catalog(dataset), partition, run_id))
    log.info("peak memory: %d MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    main()
