"""A CSV or Parquet file with one image a row: its address, its label, and what else is known of it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from sightline import storage
from sightline.errors import SourceError
from sightline.source_config import UrlListSource
from sightline.sources.access import Access, Survey
from sightline.sources.text_tables import read_text_table


def survey(source: UrlListSource, access: Access) -> Survey:
    """Count the rows of each class."""
    counts = Counter[str]()
    for batch in _batches(source):
        counts.update(label for label in batch[source.label].to_pylist() if label is not None)
    return Survey(dict(counts))


def list_images(source: UrlListSource, access: Access) -> Iterator[list[dict[str, Any]]]:
    """Yield a row for each row of the file."""
    folder = storage.located(source.path).rsplit("/", 1)[0]
    columns = [("uri", source.url), ("label", source.label), *source.columns.items()]
    for batch in _batches(source):
        rows = batch.to_pylist()
        yield [
            _manifest_row({ours: row[theirs] for ours, theirs in columns}, folder) for row in rows
        ]


def _batches(source: UrlListSource) -> Iterator[pa.RecordBatch]:
    columns = list(dict.fromkeys([source.url, source.label, *source.columns.values()]))
    yield from read_text_table(source.path, columns, source.options)


def _manifest_row(row: dict[str, Any], folder: str) -> dict[str, Any]:
    """A path without a scheme is taken from the list's own folder."""
    if row["uri"] is None:
        raise SourceError(f"A row of the list in {folder} has no address: {_shown(row)}.")
    is_relative = "://" not in row["uri"] and not row["uri"].startswith("/")
    uri = storage.join(folder, row["uri"]) if is_relative else row["uri"]
    return {**row, "uri": uri, **_rotation(row)}


def _rotation(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("rotation") is None:
        return {}
    try:
        return {"rotation": int(float(row["rotation"]))}
    except ValueError:
        raise SourceError(
            f"Rotation {row['rotation']!r} of {row['uri']} is no number of degrees; give 0, 90, 180 or 270."
        ) from None


def _shown(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in row.items())[:200]
