"""A dataset with something for every page of it, and a visitor who may do what a test says."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from fastapi import Request
from PIL import Image

from sightline import models, storage, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.tables import Table, Writer
from sightline.web.access import Permission
from tests.conftest import image_row, jpeg, store_rows

SCRIPT = "<script>alert(1)</script>"
LABELS = ("bus", SCRIPT, "شاحنة", "tram 🚋")
DAYS = ("2026-11-01", "2026-11-02", "2026-11-03")
PLAN = "00001-aaaaaaaa"
NOW = datetime(2026, 11, 4, 2, 30, tzinfo=UTC)
DIM = 8


@dataclass(frozen=True)
class Someone:
    """A visitor with some permissions on every dataset."""

    permissions: tuple[Permission, ...]
    name: str = "ann"

    def may(self, permission: Permission, dataset: str) -> bool:
        return permission in self.permissions


@dataclass(frozen=True)
class Letting:
    """A policy that lets one visitor in."""

    someone: Someone
    airflow: str | None = None

    async def visitor(self, request: Request) -> Someone:
        return self.someone


def letting(*permissions: Permission, airflow: str | None = None) -> Letting:
    return Letting(Someone(permissions), airflow)


def make_world(
    spec: DatasetSpec, catalog: Catalog, images: int = 48, side: int = 80
) -> list[dict[str, Any]]:
    """Images of four classes in three nights, with all that is found of them; returns their rows."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(images):
        label = LABELS[number % 4]
        content = jpeg(rng, np.array([60 * (number % 4), 90, 200 - 40 * (number % 4)]), side)
        uri = f"https://photos.example/{number % 4}/{number:04d}.jpg?key=secret"
        rows.append(image_row(content, label, uri=uri, partition=DAYS[number % 3]))
    for day in DAYS:
        store_rows(catalog.images, [row for row in rows if row["partition"] == day], day)
        store_by_uri(
            catalog.manifest, [_listed(row) for row in rows if row["partition"] == day], day
        )
    ids = [row["image_id"] for row in rows]
    store_rows(catalog.splits, [_split(number, one) for number, one in enumerate(ids)])
    centres = np.eye(4, DIM) * 5
    store_rows(
        catalog.features,
        [
            {"image_id": one, "backbone_id": "made-up",
             "embedding": (centres[number % 4] + rng.normal(size=DIM)).astype(np.float32)}
            for number, one in enumerate(ids)
        ],
        "made-up",
    )  # fmt: skip
    _doubt(catalog, rows)
    _reject(catalog, rows)
    _check(catalog)
    _predict(spec, catalog, rows)
    return rows


def store_by_uri(table: Table, rows: Iterable[dict[str, Any]], partition: str) -> None:
    batch = pa.RecordBatch.from_pylist(list(rows), schema=table.schema)
    urls = tables.write_batches(table, [batch])
    tables.append_new(table, urls, partition, Writer("tests"), key="uri")


def _listed(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "uri": row["uri"], "label": row["label"], "partition": row["partition"],
        "licence": "CC BY 4.0" if row["partition"] == DAYS[0] else None, "author": "Ada <b>L</b>",
        "landing_url": "javascript:alert(1)" if row["label"] == SCRIPT else "https://photos.example/p/1",
        "title": "A photo & more",
    }  # fmt: skip


def _split(number: int, image_id: str) -> dict[str, Any]:
    return {"image_id": image_id, "group_id": f"{number:016x}",
            "split": "test" if number % 5 == 4 else "train"}  # fmt: skip


def _doubt(catalog: Catalog, rows: list[dict[str, Any]]) -> None:
    for day in DAYS:
        ours = [row for row in rows if row["partition"] == day]
        found = [
            {"image_id": ours[0]["image_id"], "issue": "near_duplicate", "score": 0.05, "threshold": 0.2,
             "other_image_id": rows[-1]["image_id"], "partition": day},
            {"image_id": ours[1]["image_id"], "issue": "dark", "score": 0.1, "threshold": 0.2,
             "partition": day},
        ]  # fmt: skip
        batch = pa.RecordBatch.from_pylist(found, schema=catalog.issues.schema)
        urls = tables.write_batches(catalog.issues, [batch])
        tables.append_new(catalog.issues, urls, day, Writer("tests"))
    suspicious = [
        {"image_id": row["image_id"], "model_version": PLAN, "split": "train", "label": row["label"],
         "suggested": LABELS[(number + 1) % 4], "score": 0.01 * number, "label_probability": 0.05,
         "suggested_probability": 0.9, "is_label_issue": True, "distance": 1.0,
         "is_outlier": number == 2, "is_excluded": number == 1, "rank": number + 1}
        for number, row in enumerate(rows[:30])
    ]  # fmt: skip
    store_rows(catalog.suspicious_labels, suspicious, PLAN)


def _reject(catalog: Catalog, rows: list[dict[str, Any]]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(buffer, "JPEG")
    common = {"stage": "fetch", "attempts": 1, "rejected_at": NOW, "partition": DAYS[0]}
    rejects = [
        {"uri": "https://photos.example/broken.jpg", "label": "bus", "reason": "truncated",
         "detail": f"ends early {SCRIPT}", "thumbnail": buffer.getvalue(), **common},
        {"uri": "https://photos.example/gone.jpg", "label": None, "reason": "gone", "detail": "404",
         **common},
        {"uri": "https://photos.example/copy.jpg", "label": "tram", "reason": "conflict",
         "detail": f"same bytes as {rows[0]['uri']}", "thumbnail": buffer.getvalue(), **common},
    ]  # fmt: skip
    store_by_uri(catalog.rejects, rejects, DAYS[0])
    listed = [{"uri": row["uri"], "label": row["label"], "partition": DAYS[0]} for row in rejects]
    listed.append({"uri": "https://photos.example/late.jpg", "label": "bus", "partition": DAYS[0]})
    batch = pa.RecordBatch.from_pylist(listed, schema=catalog.manifest.schema)
    urls = tables.write_batches(catalog.manifest, [batch])
    tables.append_new(catalog.manifest, urls, DAYS[0], Writer("tests"), key="uri")


def _check(catalog: Catalog) -> None:
    for number, day in enumerate(DAYS):
        validation = f"ingest_photos/run-{day}/images/{day}"
        found = [
            {"validation": validation, "run": f"ingest_photos/run-{day}", "suite": "images",
             "partition": day, "expectation": expectation, "column": "label", "because": because,
             "success": is_met, "rows": 16, "judged": 16, "unexpected": 0 if is_met else 3,
             "observed": 1.0 if is_met else 13 / 16, "least": 0.95, "checked_at": NOW}
            for expectation, because, is_met in [
                ("expect_column_values_to_not_be_null", "Every image has a label.", True),
                ("expect_column_values_to_be_in_set", f"Labels are known {SCRIPT}.", number != 1),
            ]
        ]  # fmt: skip
        batch = pa.RecordBatch.from_pylist(found, schema=catalog.check_results.schema)
        held = tables.claim(catalog.check_results, Writer("tests"))
        urls = tables.write_batches(catalog.check_results, [batch])
        tables.replace_partition(catalog.check_results, urls, validation, held)
    docs = b"<!doctype html><title>Data Docs</title><style>h1 { color: teal }</style><h1>Validations</h1>"
    storage.write_bytes(storage.join(catalog.checks, "index.html"), docs)


def _predict(spec: DatasetSpec, catalog: Catalog, rows: list[dict[str, Any]]) -> None:
    tested = [(number, row) for number, row in enumerate(rows) if number % 5 == 4]
    predictions = [
        {"image_id": row["image_id"], "model_version": PLAN, "label": row["label"],
         "predicted": row["label"] if place else "bus" if row["label"] != "bus" else SCRIPT,
         "probability": 0.8, "probabilities": [0.8]}
        for place, (_, row) in enumerate(tested)
    ]  # fmt: skip
    store_rows(catalog.predictions, predictions, PLAN)
    versions = {
        name: tables.current_version(getattr(catalog, name))
        for name in ("images", "features", "splits")
    }
    models.write_model(catalog, {
        "version": PLAN, "kind": models.HEAD, "created_at": "2026-11-04T00:00:00+00:00", "seed": 0,
        "labels": list(LABELS), "backbone_id": "made-up", "fingerprint": "f", "tables": versions,
        "spec": spec.model_dump(mode="json"), "metrics": {"accuracy": 0.9}, "rows": {"train": 39, "test": 9},
        "head": {"kind": "logistic_regression", "parameters": {}}, "reduction": None,
    })  # fmt: skip
    models.crown(catalog, PLAN)
