"""Files of a table that nothing needs: not the newest version, not one that a model names, none of late.

Delta's own vacuum would do, but for what it spares (names that begin with `_`, such as those of a killed
Spark job's temporary folder) and for the commits that it makes, which a training would take for news.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from sightline import delta, storage, tables
from sightline.errors import StorageError
from sightline.tables import Table

ENTRY = re.compile(r"(\d{20})\.json")
CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(\..+)?\.parquet")
LAST_CHECKPOINT = "_last_checkpoint"


@dataclass(frozen=True)
class Since:
    """From when on what is kept: what a later version has exchanged, and what no version counts."""

    superseded: datetime
    uncommitted: datetime


def sweep(table: Table, pinned: Collection[int], since: Since) -> list[str]:
    """Remove what is needed no more from a table's folder, its log included; returns their paths in it."""
    present = storage.files_below(
        table.url
    )  # before the table is opened: what comes later is spared
    if tables.current_version(table) is None:
        return []
    entries = {
        path.partition("/")[2]: at
        for path, at in present.items()
        if path.startswith(f"{delta.LOG}/")
    }
    needed = _needed_files(table, pinned, entries, since)
    gone = [
        path
        for path, written_at in present.items()
        if not path.startswith((f"{delta.LOG}/", delta.ERASED))
        and subject_of(path) not in needed
        and written_at < since.uncommitted
    ]
    gone += [f"{delta.LOG}/{name}" for name in _old_entries(entries, pinned, since)]
    for path in gone:
        storage.remove_file(storage.join(table.url, path))
    storage.remove_empty_folders(table.url, since.uncommitted)
    return gone


def subject_of(path: str) -> str:
    """The file_name of a file, or of the one whose checksum of Hadoop it is."""
    folder, _, name = tables.file_name(path).rpartition("/")
    is_checksum = name.startswith(".") and name.endswith(".crc")
    return f"{folder}/{name[1:-4]}" if is_checksum else f"{folder}/{name}"


def _needed_files(
    table: Table, pinned: Collection[int], entries: dict[str, datetime], since: Since
) -> set[str]:
    """By file_name the files of the newest version, of those that are pinned, and of those since then."""
    needed = {tables.file_name(url) for url in tables.file_urls(table)}
    for version in pinned:
        needed |= {tables.file_name(url) for url in _files_of(table, version)}
    for name, written_at in entries.items():
        if ENTRY.fullmatch(name) and written_at >= since.superseded:
            needed |= _removed_by(storage.join(table.url, delta.LOG, name))
    return needed


def _files_of(table: Table, version: int) -> list[str]:
    """The files of a version; none where its entry is gone, or it was erased in part."""
    try:
        return tables.surviving_urls(table, version)
    except StorageError:
        return []


def _removed_by(entry: str) -> set[str]:
    """The files that a commit has taken out of the table."""
    actions = [json.loads(line) for line in storage.read_bytes(entry).decode().splitlines()]
    paths = [action["remove"]["path"] for action in actions if "remove" in action]
    return {tables.file_name(unquote(path)) for path in paths}


def _old_entries(entries: dict[str, datetime], pinned: Collection[int], since: Since) -> list[str]:
    """What the log needs no more: all before the last checkpoint from which every wanted version can be
    read, and what a killed writer has left."""
    versions = {name: int(found[1]) for name in entries if (found := ENTRY.fullmatch(name))}
    checkpoints = {name: int(found[1]) for name in entries if (found := CHECKPOINT.fullmatch(name))}
    late = [version for name, version in versions.items() if entries[name] >= since.superseded]
    wanted = min([*pinned, *(version - 1 for version in late), max(versions.values())])
    first = max((one for one in checkpoints.values() if one <= wanted), default=0)
    known = {**versions, **checkpoints}
    old = [name for name, version in known.items() if version < first]
    strange = [name for name in entries if name not in known and name != LAST_CHECKPOINT]
    return old + [name for name in strange if entries[name] < since.uncommitted]
