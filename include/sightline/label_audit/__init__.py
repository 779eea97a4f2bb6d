"""The audit of labels: which ones the other images speak against, and which images are like no other.

A head that has not seen an image judges its label: of a train image the head of the other folds, of a val
or test image the head of the whole train split. audited reads the rows, opinions fits the heads and lets
them judge, suspicion keeps what is worth a person's look.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sightline import exclusions, label_overrides, storage, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.conflicts import dropped_images
from sightline.label_audit.audited import TRAIN, Audit
from sightline.label_audit.opinions import Judging, fit_judges
from sightline.label_audit.suspicion import find_suspicious
from sightline.labels_config import ExcludeSpec
from sightline.ledger import Record, TaskRun
from sightline.models import Plan
from sightline.schemas import SUSPICIOUS_LABELS


def audit_labels(
    spec: DatasetSpec, catalog: Catalog, task: TaskRun, record: Record, plan: Plan
) -> None:
    """Rank the labels of the plan's images from the worst, and settle which images its models leave out."""
    record.read(catalog.images, version=plan.images_version)
    record.read(catalog.features, version=plan.features_version)
    record.read(catalog.splits, version=plan.splits_version)
    record.read(catalog.manifest, catalog.rejects)  # what they say of conflicts
    record.read(catalog.label_overrides, version=plan.label_overrides_version)
    held = tables.claim(catalog.suspicious_labels, task.writer)
    decided = label_overrides.read(catalog, plan.label_overrides_version)
    dropped = frozenset(dropped_images(spec.labels, catalog, plan.images_version, decided))
    suspicious, judged = _audit(Audit(spec, catalog, plan, dropped))
    suspicious = _undecided(suspicious, list(decided))
    excluded = choose_excluded(suspicious, judged["train_images"], spec.labels.exclude_suspicious)
    found = _finish(suspicious, excluded, plan.version)
    urls = tables.write_batches(catalog.suspicious_labels, found.to_batches())
    tables.replace_partition(catalog.suspicious_labels, urls, plan.version, held)
    reasons = dict.fromkeys(excluded, exclusions.SUSPICIOUS)
    reasons |= dict.fromkeys(dropped, exclusions.CONFLICT)
    exclusions.write_exclusions(catalog, plan.version, reasons, task.writer)
    record.counts = {
        **judged,
        "label_issues": pc.sum(found["is_label_issue"]).as_py() or 0,
        "outliers": pc.sum(found["is_outlier"]).as_py() or 0,
        "conflicts": len(dropped),
        "excluded": len(excluded),
        "decided": len(decided),
    }
    record.wrote(catalog.suspicious_labels, rows=found.num_rows)
    record.wrote(catalog.exclusions, rows=len(reasons))


def choose_excluded(
    suspicious: pa.Table, train_images: int, wanted: ExcludeSpec | None
) -> list[str]:
    """The train images not to train on: the worst of those whose label another class beats."""
    if wanted is None:
        return []
    is_beaten = pc.less(suspicious["label_probability"], suspicious["suggested_probability"])
    worst = suspicious.filter(pc.and_(is_beaten, pc.equal(suspicious["split"], TRAIN)))
    if wanted.below is not None:
        worst = worst.filter(pc.less(worst["score"], wanted.below))
    elif wanted.share is not None:
        worst = worst.slice(0, int(wanted.share * train_images))
    else:
        worst = worst.slice(0, wanted.worst)
    chosen: list[str] = worst["image_id"].to_pylist()
    return chosen


def _undecided(suspicious: pa.Table, decided: list[str]) -> pa.Table:
    """Without the images whose label a person has accepted or corrected: that is settled."""
    is_settled = pc.is_in(suspicious["image_id"], pa.array(decided, pa.string()))
    return suspicious.filter(pc.invert(is_settled))


def _audit(audit: Audit) -> tuple[pa.Table, dict[str, Any]]:
    """The suspicious rows from the worst, and what was counted."""
    labels = audit.classes()
    judging = Judging(labels)
    if len(labels) < 2:  # training says what is wrong
        return find_suspicious([], judging, labels), judging.counts
    judges = fit_judges(audit, labels)
    with storage.temporary_folder(audit.catalog.staging, "audit") as folder:
        urls = judging.write(audit, judges, folder)
        return find_suspicious(urls, judging, labels), judging.counts


def _finish(suspicious: pa.Table, excluded: list[str], version: str) -> pa.Table:
    """Rows of SUSPICIOUS_LABELS."""
    count = suspicious.num_rows
    added = {
        "model_version": pa.array([version] * count, pa.string()),
        "is_excluded": pc.is_in(suspicious["image_id"], pa.array(excluded, pa.string())),
        "rank": pa.array(range(1, count + 1), pa.int64()),
    }
    for name, values in added.items():
        suspicious = suspicious.append_column(name, values)
    return suspicious.select(SUSPICIOUS_LABELS.names).cast(SUSPICIOUS_LABELS)
