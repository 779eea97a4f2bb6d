"""Images as <path>/<class>/<file>, on a local disk or wherever fsspec reaches: s3://, http://, ...

A folder has no dates, so a partition takes the files that no other partition has listed: the nightly
run takes what is new, and a rerun of a night takes that night's files again.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fsspec.core import url_to_fs

from sightline import tables
from sightline.catalog import Catalog
from sightline.config import FolderSource
from sightline.errors import SourceError
from sightline.settings import load_settings
from sightline.sources.survey import Survey

log = logging.getLogger(__name__)

ROWS_AT_A_TIME = 5_000
NOT_IMAGES = (
    "Thumbs.db",
    "desktop.ini",
)  # what file managers leave behind; dot files are skipped too


def survey(source: FolderSource) -> Survey:
    """Count the files of each class."""
    images_by_class: Counter[str] = Counter()
    size_bytes: int | None = 0
    for row in _walk(source):
        images_by_class[row["label"]] += 1
        known = size_bytes is not None and row["size_bytes"] is not None
        size_bytes = size_bytes + row["size_bytes"] if known else None
    return Survey(dict(images_by_class), size_bytes)


def list_images(
    source: FolderSource, catalog: Catalog, partition: str
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of files that no other partition has listed."""
    rows: list[dict[str, Any]] = []
    for row in _walk(source):
        rows.append(row)
        if len(rows) >= ROWS_AT_A_TIME:
            yield _unlisted(catalog, partition, rows)
            rows = []
    yield _unlisted(catalog, partition, rows)


def _unlisted(catalog: Catalog, partition: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    uris = [row["uri"] for row in rows]
    elsewhere = tables.held_values(catalog.manifest, "uri", uris, but_partition=partition)
    return [row for row in rows if row["uri"] not in elsewhere]


def _walk(source: FolderSource) -> Iterator[dict[str, Any]]:
    """Every file below a class folder, in a fixed order, as a manifest row."""
    path = source.path
    if "://" not in path:
        path = str(load_settings().home / path)
    try:
        fs, root = url_to_fs(path, **source.options)
        root = root.rstrip("/")
        if not fs.isdir(root):
            kind = "is not a folder" if fs.exists(root) else "does not exist"
            raise SourceError(
                f"Folder {path} {kind}; put photos into {source.path}/<class>/ or change source.path."
            )
        classless = 0
        for folder, _, files in fs.walk(root, detail=True, on_error="raise", topdown=True):
            label = folder.rstrip("/").removeprefix(root).strip("/").split("/")[0]
            for name in sorted(files):
                if name.startswith(".") or name in NOT_IMAGES or not name:
                    continue
                if not label:
                    classless += 1
                elif not label.startswith("."):
                    yield _row(fs, files[name], label)
        if classless:
            log.warning("%d files directly in %s are in no class folder; left out", classless, path)
    except OSError as error:
        raise SourceError(f"Cannot list {path}: {error.strerror or error}.") from error


def _row(fs: Any, info: dict[str, Any], label: str) -> dict[str, Any]:
    size = info.get("size")
    etag = info.get("ETag") or info.get("etag")
    if etag is None and info.get("mtime") is not None:
        etag = f"{size}-{info['mtime']}"
    name = info["name"]
    return {
        "uri": name if "file" in _protocols(fs) else fs.unstrip_protocol(name),
        "label": label,
        "size_bytes": size,
        "etag": etag,
    }


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
