"""What each suite looks at: rows from SQL or from Arrow batches, in slices of bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sightline import schemas, tables
from sightline.catalog import Catalog

if TYPE_CHECKING:
    import pandas

SLICE_ROWS = 500_000
EMBEDDING_BATCH_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Frame:
    """Rows to look at: `columns` may be named by expectations, `row_name` names a row in errors."""

    columns: tuple[str, ...]
    row_name: str
    read: Callable[[list[str]], Iterator[pa.RecordBatch]]

    def slices(self, columns: list[str]) -> Iterator["pandas.DataFrame"]:
        """Some columns, at most SLICE_ROWS rows at a time; one empty slice where there is no row."""
        names = sorted({self.row_name, *columns})
        has_rows = False
        for batches in _regrouped(self.read(names)):
            has_rows = True
            yield pa.Table.from_batches(batches).select(names).to_pandas()
        if not has_rows:
            yield pa.table({name: pa.array([], pa.string()) for name in names}).to_pandas()


def manifest_frames(catalog: Catalog, partition: str) -> list[Frame]:
    """The partition's rows of the manifest; the label of an image to predict is said to be that."""
    others = ", ".join(name for name in schemas.MANIFEST.names if name != "label")
    rows = f"""
        SELECT {others}, CASE WHEN split_hint = 'predict' AND label IS NULL THEN '(to predict)' ELSE label END
            AS label
        FROM manifest WHERE partition = {tables.literal(partition)}
    """

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        with tables.stream_query(manifest=catalog.manifest) as sql:
            yield from sql(f"SELECT {_list(columns)} FROM ({rows})")

    return [Frame(tuple(schemas.MANIFEST.names), "uri", read)]


def images_frames(catalog: Catalog, partition: str) -> list[Frame]:
    """The partition's manifest, each row with its outcome and with the image that we hold."""
    measured = [name for name in schemas.IMAGES.names if name not in ("uri", "content")]
    # A uri that another partition rejected (unreadable, say) and this one took is not in both.
    outcomes = f"""
        SELECT manifest.uri, {", ".join(f"images.{name}" for name in measured)},
            CASE
                WHEN images.uri IS NULL THEN rejects.reason
                WHEN rejects.partition = {tables.literal(partition)} THEN 'both'
                ELSE 'image'
            END AS outcome
        FROM manifest
        LEFT JOIN images ON images.uri = manifest.uri
        LEFT JOIN rejects ON rejects.uri = manifest.uri
        WHERE manifest.partition = {tables.literal(partition)}
    """

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        sources = {
            "manifest": catalog.manifest,
            "images": catalog.images,
            "rejects": catalog.rejects,
        }
        with tables.stream_query(**sources) as sql:
            yield from sql(f"SELECT {_list(columns)} FROM ({outcomes})")

    return [Frame(("uri", "outcome", *measured), "uri", read)]


def features_frames(
    catalog: Catalog, partition: str, backbone_id: str, dimension: int
) -> list[Frame]:
    """The partition's images with the number of their embeddings; and all embeddings, measured."""
    counted = f"""
        SELECT images.image_id, images.uri, images.label, coalesce(known.n, 0) AS embeddings
        FROM images LEFT JOIN (
            SELECT image_id, count(*) AS n FROM features
            WHERE backbone_id = {tables.literal(backbone_id)} GROUP BY image_id
        ) AS known ON known.image_id = images.image_id
        WHERE images.partition = {tables.literal(partition)}
    """

    def read_counts(columns: list[str]) -> Iterator[pa.RecordBatch]:
        with tables.stream_query(images=catalog.images, features=catalog.features) as sql:
            yield from sql(f"SELECT {_list(columns)} FROM ({counted})")

    def read_embeddings(columns: list[str]) -> Iterator[pa.RecordBatch]:
        batches = tables.read_batches(
            catalog.features,
            ["image_id", "embedding"],
            batch_rows=max(1, EMBEDDING_BATCH_BYTES // (4 * dimension)),
            partition=backbone_id,
        )
        for batch in batches:
            yield measure_embeddings(batch)

    return [
        Frame(("image_id", "uri", "label", "embeddings"), "uri", read_counts),
        Frame(
            ("image_id", "dimension", "is_finite", "norm", "spread"), "image_id", read_embeddings
        ),
    ]


def measure_embeddings(batch: pa.RecordBatch) -> pa.RecordBatch:
    """image_id, dimension, is_finite, norm and spread of each row's embedding."""
    embeddings = batch["embedding"]
    dimensions = pc.fill_null(pc.list_value_length(embeddings), 0).to_numpy()
    values = embeddings.flatten().to_numpy().astype(np.float64)
    widths = np.unique(dimensions)
    if len(widths) == 1 and widths[0] > 0:
        measured = _measure_matrix(values.reshape(len(dimensions), -1))
    else:  # rows of unequal width, which the suite is about to refuse
        rows = np.split(values, np.cumsum(dimensions)[:-1])
        each = [_measure_matrix(row[np.newaxis, :]) if row.size else _NOTHING for row in rows]
        measured = {name: np.concatenate([one[name] for one in each]) for name in _NOTHING}
    columns: dict[str, Any] = {"image_id": batch["image_id"], "dimension": dimensions, **measured}
    return pa.RecordBatch.from_pydict(columns)


_NOTHING = {"is_finite": np.array([True]), "norm": np.zeros(1), "spread": np.zeros(1)}


def _measure_matrix(matrix: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[Any]]:
    is_finite = np.asarray(np.isfinite(matrix).all(axis=1))
    tame = np.where(is_finite[:, np.newaxis], matrix, np.nan)  # NaN: judged by is_finite alone
    return {
        "is_finite": is_finite,
        "norm": np.linalg.norm(tame, axis=1),
        "spread": tame.max(axis=1) - tame.min(axis=1),
    }


def _regrouped(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """The same rows in groups of SLICE_ROWS."""
    group: list[pa.RecordBatch] = []
    room = SLICE_ROWS
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            group.append(batch.slice(start, room))
            start += group[-1].num_rows
            room -= group[-1].num_rows
            if room == 0:
                yield group
                group, room = [], SLICE_ROWS
    if group:
        yield group


def _list(columns: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)
