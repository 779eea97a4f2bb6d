"""A small dataset with everything that the pages show, made of the tables and files that real runs leave."""

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightline import ledger, models, storage
from sightline.catalog import Catalog
from sightline.ledger import TaskRun
from tests.conftest import catalog_of, image_row, jpeg, store_partition, store_rows, write_dataset

DAILY = """\
description: Birds at the feeder, a photo a visit.
source: {type: flickr, searches: {robin: robin, wren: wren}}
backbone: {name: resnet18}
"""
BY_FOLDER = """\
description: Written by hand.
source: {type: folder, path: photos}
backbone: {name: resnet18}
"""
BROKEN = "source: {type: folder, path: photos}\nbackbone: {name: resnet5}\n"

# As strangers name things: a script, from right to left, emoji, and longer than a card is wide.
LABELS = [
    "robin",
    "wren",
    "<script>alert(1)</script>",
    "שלום",
    "🐦‍⬛ blackbird",
    "long " * 12,
    None,
]
RUN_ID = "scheduled__2026-11-06T00:00:00+00:00"
REPORT = (
    "<!doctype html><html lang=en><title>Report</title><style>h1{color:red}</style>"
    "<h1>Report</h1><script>document.title = 'run'</script></html>"
)


def write_demo(places: Path) -> Catalog:
    """Three dataset files, of which the first, `birds`, has been run; returns its places."""
    write_dataset(places, "digits", BY_FOLDER)
    (places / "datasets" / "broken.yaml").write_text(BROKEN)
    catalog = catalog_of(write_dataset(places, "birds", DAILY))
    store_rows(catalog.images, _photos(), "2026-11-05")
    store_partition(catalog.rejects, [_reject(number) for number in range(3)], "2026-11-05")
    for number, accuracy in enumerate((0.81, 0.86, 0.9, 0.894, 0.932)):
        _publish(catalog, f"0000{number}-abcdef01", accuracy)
    _record_runs(catalog)
    for name in ("latest.html", "00004-abcdef01.html"):
        storage.write_bytes(storage.join(catalog.reports, name), REPORT.encode())
    storage.write_bytes(storage.join(catalog.checks, "index.html"), REPORT.encode())
    return catalog


def _photos() -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    rows = []
    for index, label in enumerate(LABELS):
        base = np.array([(67 * index) % 256, (131 * index + 80) % 256, (29 * index + 160) % 256])
        rows += [image_row(jpeg(rng, base, 96), label) for _ in range(3)]
    tiny = io.BytesIO()
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tiny, "PNG")
    return [*rows, image_row(tiny.getvalue(), "wren", uri="mem://tiny")]


def _reject(number: int) -> dict[str, Any]:
    return {
        "uri": f"https://photos.example/{number}.jpg",
        "label": "wren",
        "stage": "fetch_images",
        "reason": ("corrupt", "gone", "corrupt")[number],
        "attempts": 1,
        "rejected_at": datetime(2026, 11, 6, tzinfo=UTC),
        "partition": "2026-11-05",
    }


def _publish(catalog: Catalog, version: str, accuracy: float) -> None:
    model = {"version": version, "created_at": "2026-11-06T00:20:00+00:00", "kind": "head"}
    more = {
        "backbone_id": "resnet18-default",
        "rows": {"train": 12, "test": 4},
        "labels": ["a", "b"],
    }
    models.write_model(catalog, {**model, **more, "metrics": {"accuracy": accuracy}})
    models.crown(catalog, version)


def _record_runs(catalog: Catalog) -> None:
    fetched = {
        "images": 22,
        "held_before": 1_204,
        "rejects": 3,
        "duplicates": 1,
        "bytes": 4_812_345,
    }
    missed = {"assertion": "expect_column_values_to_be_between", "because": "no image is tiny"}
    _record(catalog, "ingest_birds", RUN_ID, "list_images", 2.1, {"listed": 1_230, "classes": 6})
    _record(catalog, "ingest_birds", RUN_ID, "fetch_images", 31.4, fetched)
    with_findings = _record(
        catalog, "ingest_birds", RUN_ID, "validate_images", 0.4, {"rows": 1_226}
    )
    with_findings["findings"] = [{**missed, "success": False}, {**missed, "success": True}]
    _rewrite(catalog, with_findings)
    featurized = {"featurized": 22, "known": 1_204}
    _record(catalog, "ingest_birds", RUN_ID, "featurize", 14.2, featurized)
    report = {"url": storage.join(catalog.reports, "00004-abcdef01.html")}
    _record(catalog, "train_birds", RUN_ID, "report", 1.2, report)


def _record(
    catalog: Catalog, dag_id: str, run_id: str, task: str, seconds: float, counts: dict[str, Any]
) -> dict[str, Any]:
    run = TaskRun(dag_id, run_id, task, "2026-11-05")
    with ledger.recording(catalog, run) as record:
        record.counts = counts
        if task == "fetch_images":
            record.wrote(catalog.images, rows=counts["images"])
    written = ledger.read_record(catalog, run)
    assert written is not None
    minute = ("list_images", "fetch_images", "validate_images", "featurize", "report").index(task)
    written |= {"seconds": seconds, "started_at": f"2026-11-06T00:0{minute}:00+00:00"}
    _rewrite(catalog, written)
    return written


def _rewrite(catalog: Catalog, record: dict[str, Any]) -> None:
    run = TaskRun(record["dag_id"], record["run_id"], record["task"], record["partition"])
    newest = catalog.newest(run.dag_id, run.task)
    for url in (ledger.record_url(catalog, run), newest):
        storage.write_json(url, record)
