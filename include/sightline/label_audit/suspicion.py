"""Which opinions are worth a person's look: labels that another class beats, and images far from all."""

from typing import Any

import numpy as np
import pyarrow as pa

from sightline import tables
from sightline.batches import to_matrix
from sightline.confident_learning import far_out, label_issues, self_confidence, suggest
from sightline.label_audit.opinions import OPINIONS, Judging

Array = np.ndarray[Any, Any]

SUSPICIOUS = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("suggested", pa.string()),
        ("score", pa.float64()),
        ("label_probability", pa.float32()),
        ("suggested_probability", pa.float32()),
        ("is_label_issue", pa.bool_()),
        ("distance", pa.float64()),
        ("is_outlier", pa.bool_()),
    ]
)


def find_suspicious(urls: list[str], judging: Judging, labels: list[str]) -> pa.Table:
    """The suspicious rows of files of OPINIONS, the lowest score first."""
    fence = far_out(np.concatenate([np.zeros(0), *judging.distances]))
    thresholds = judging.confidence.thresholds
    batches = tables.dataset_of(urls, OPINIONS).to_batches() if urls else ()
    kept = [_suspicious(batch, labels, thresholds, fence) for batch in batches]
    found = pa.concat_tables([SUSPICIOUS.empty_table(), *kept])
    return found.sort_by([("score", "ascending"), ("image_id", "ascending")])


def _suspicious(
    batch: pa.RecordBatch, labels: list[str], thresholds: Array, fence: float
) -> pa.Table:
    classes, names = np.asarray(batch["class"]), pa.array(labels, pa.string())
    probabilities = to_matrix(batch["probabilities"])
    suggested = suggest(probabilities, classes)
    theirs = self_confidence(probabilities, suggested)
    is_issue = label_issues(probabilities, classes, thresholds)
    is_outlier = np.asarray(batch["distance"]) > fence
    is_beaten = np.asarray(batch["score"]) < theirs
    columns = [
        batch["image_id"],
        batch["split"],
        names.take(batch["class"]),
        names.take(pa.array(suggested)),
        batch["score"],
        batch["score"].cast(pa.float32(), safe=False),
        pa.array(theirs, pa.float32()),
        pa.array(is_issue),
        batch["distance"],
        pa.array(is_outlier),
    ]
    rows = pa.Table.from_arrays(columns, schema=SUSPICIOUS)
    return rows.filter(pa.array(is_issue | is_beaten | is_outlier))
