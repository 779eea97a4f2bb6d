"""The files of a table's newest version, asked for often: of the log only what is new is read each time."""

import threading
from collections.abc import Iterator

from deltalake import DeltaTable

from sightline import delta, tables
from sightline.tables import Table
from sightline.web.recent import Recent


class Watched:
    """A table that was opened once and is brought up to date whenever it is asked for."""

    def __init__(self, table: Table, opened: DeltaTable) -> None:
        self._table = table
        self._opened = opened
        self._seen: int | None = None
        self._urls: dict[str | None, list[str]] = {}
        self._lock = threading.Lock()

    def urls_by_partition(self) -> dict[str | None, list[str]]:
        """URLs of the files of each partition now."""
        with self._lock:
            self._opened.update_incremental()
            if self._opened.version() != self._seen:
                self._urls = delta.grouped_urls(self._table, self._opened)
                self._seen = self._opened.version()
            return self._urls


_watched: Recent[Watched] = Recent(64)


def files_by_partition(table: Table) -> dict[str | None, list[str]]:
    """The files of the newest version by their partition; none where there is no table yet."""

    def watch() -> Watched:
        opened = tables.open_table(table)
        if opened is None:
            raise LookupError(table.name)
        return Watched(table, opened)

    try:
        return _watched.get(table.url, watch).urls_by_partition()
    except LookupError:
        return {}


def newest_files(table: Table) -> Iterator[str]:
    """The files of the newest version, those of the newest partition first."""
    held = files_by_partition(table)
    for partition in sorted(held, key=str, reverse=True):
        yield from held[partition]
