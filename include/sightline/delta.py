"""Delta tables opened: what a table is, its files at a version, and SQL over several of them.

A version that held images which were taken down since is refused; see erasure.py.
"""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable, QueryBuilder, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import create_table_with_add_actions

from sightline import storage
from sightline.errors import StorageError
from sightline.schema_evolution import add_missing_columns

log = logging.getLogger(__name__)

Slice = list[tuple[str, str, Any]]  # a partition, as delta-rs filters for it
More = ParamSpec("More")
Written = TypeVar("Written")

# In a table's folder: files that are gone for good, and what took their places.
ERASED = "_erased.json"
LOG = "_delta_log"


@dataclass(frozen=True)
class Table:
    """One table of a dataset: where it lies and what its rows are."""

    name: str
    url: str
    schema: pa.Schema
    partition_by: str | None = None


_TURNS: dict[str, threading.RLock] = {}  # by a table's url


def in_turn(
    write: Callable[Concatenate[Table, More], Written],
) -> Callable[Concatenate[Table, More], Written]:
    """Let the threads of this process write to a table one after another. One that is overtaken while it
    looks what the table holds would have to look again, and of many all but one are overtaken."""

    @wraps(write)
    def written(table: Table, /, *more: More.args, **named: More.kwargs) -> Written:
        with _TURNS.setdefault(table.url, threading.RLock()):
            return write(table, *more, **named)

    return written


def open_table(table: Table, version: int | None = None) -> DeltaTable | None:
    """The Delta table at a version (default: its newest), or None where there is none yet.

    StorageError where files of that version were erased since.
    """
    opened = open_version(table, version)
    if version is not None and opened is not None:
        gone = erased_files(table)
        if gone and not gone.keys().isdisjoint(map(file_name, urls_of(opened, None))):
            raise StorageError(
                f"Version {version} of table {table.name} cannot be read any more: it held images that "
                "were taken down; let a new run work from the newest version."
            )
    return opened


def version_or_newest(table: Table, version: int | None) -> Table | DeltaTable:
    """A version to be queried; the newest where that one can no longer be read, for a question that today's
    rows answer nearly as well: which images a champion has seen, after a take-down of some of them.
    """
    try:
        return open_table(table, version) or table
    except StorageError as error:
        log.warning("%s Its newest version is read instead.", error)
        return table


def open_version(table: Table, version: int | None = None) -> DeltaTable | None:
    """As `open_table`, also where files of the version are gone.

    StorageError where its entry in the table's log is gone, too: delta-rs then sees no table, or one without
    rows.
    """
    options = storage.delta_options(table.url)
    try:
        opened = DeltaTable(table.url, version=version, storage_options=options)
    except TableNotFoundError as error:
        if version is None or not storage.exists(storage.join(table.url, LOG)):
            return None
        raise _forgotten(table, version) from error
    except (DeltaError, OSError) as error:
        raise storage.failure(f"open table {table.name}", table.url, error) from error
    if version is not None and not storage.exists(log_entry(table, version)):
        raise _forgotten(table, version)
    return opened


def _forgotten(table: Table, version: int) -> StorageError:
    return StorageError(
        f"Version {version} of table {table.name} cannot be read any more: it is older than what is "
        "kept (`keep:` in the dataset file); let a new run work from the newest version."
    )


def log_entry(table: Table, version: int) -> str:
    """Where a version stands in the table's log."""
    return storage.join(table.url, LOG, f"{version:020d}.json")


def current_version(table: Table) -> int | None:
    """The newest version, or None where there is no table yet."""
    opened = open_table(table)
    return None if opened is None else opened.version()


def count_rows(table: Table, version: int | None = None, partition: str | None = None) -> int:
    """Rows of a version, or of one partition, from the log alone: no data file is read."""
    opened = open_table(table, version)
    if opened is None:
        return 0
    actions = pa.table(opened.get_add_actions(flatten=True))
    if partition is not None:
        actions = actions.filter(pc.equal(actions[f"partition.{table.partition_by}"], partition))
    return int(pc.sum(actions["num_records"]).as_py() or 0)


def file_rows(table: Table, version: int | None = None) -> list[tuple[str, int]]:
    """The files of a version with their numbers of rows, from the log alone."""
    opened = open_table(table, version)
    if opened is None:
        return []
    actions = pa.table(opened.get_add_actions(flatten=True))
    counts = zip(actions["path"].to_pylist(), actions["num_records"].to_pylist(), strict=True)
    rows = {file_name(unquote(path)): count for path, count in counts}
    return [(url, rows[file_name(url)]) for url in urls_of(opened, None)]


def erased_files(table: Table) -> dict[str, list[str]]:
    """By file_name the files that a take-down has erased, each with those that took its place."""
    found: dict[str, list[str]] | None = storage.read_json(storage.join(table.url, ERASED))
    return found or {}


def surviving_urls(
    table: Table, version: int | None = None, partition: str | None = None
) -> list[str]:
    """URLs of what is left of a version, or of one partition of it: where files were erased, of those in
    their places."""
    opened = open_version(table, version)
    gone = erased_files(table)
    left = [] if opened is None else urls_of(opened, slice_of(table, partition))
    while any(file_name(url) in gone for url in left):
        left = [
            place
            for url in left
            for place in (
                [storage.join(table.url, one) for one in gone[file_name(url)]]
                if file_name(url) in gone
                else [url]
            )
        ]
    return left


def file_name(url: str) -> str:
    """The last two parts of a path: they name a file of a table, however the rest is spelled."""
    return "/".join(url.split("/")[-2:])


@contextmanager
def query(**tables: Table | DeltaTable | pa.Schema) -> Iterator[Callable[[str], pa.Table]]:
    """Run SQL over tables by name; one that does not exist yet counts as empty, and so does a mere schema.

    >>> with query(images=catalog.images) as sql:
    ...     sql("SELECT label, count(*) AS n FROM images GROUP BY label")
    """
    with stream_query(**tables) as sql:
        yield lambda statement: pa.table(sql(statement).read_all())


@contextmanager
def stream_query(
    **tables: Table | DeltaTable | pa.Schema,
) -> Iterator[Callable[[str], pa.RecordBatchReader]]:
    """As `query`, but the answer comes batch by batch, for answers that grow with the dataset."""
    builder = QueryBuilder()
    with tempfile.TemporaryDirectory() as empty:
        for name, table in tables.items():
            builder.register(name, _opened(table, f"{empty}/{name}"))
        yield lambda statement: pa.RecordBatchReader.from_stream(builder.execute(statement))


def _opened(table: Table | DeltaTable | pa.Schema, empty: str) -> DeltaTable:
    """The table to be queried; where there is none, an empty one that is made at `empty`."""
    if isinstance(table, DeltaTable):
        return table
    opened = open_table(table) if isinstance(table, Table) else None
    if opened is None:
        schema = table.schema if isinstance(table, Table) else table
        create_table_with_add_actions(empty, Schema.from_arrow(schema), [])
        return DeltaTable(empty)
    add_missing_columns(opened, table.schema)
    return opened


def literal(text: str) -> str:
    """Text as SQL writes it; labels and names come from strangers."""
    return "'" + text.replace("'", "''") + "'"


def urls_by_partition(table: Table) -> dict[str | None, list[str]]:
    """The files of the newest version by their partition, or by None in a table without any."""
    opened = open_table(table)
    return {} if opened is None else grouped_urls(table, opened)


def grouped_urls(table: Table, opened: DeltaTable) -> dict[str | None, list[str]]:
    """The files of an opened version by their partition, or by None in a table without any."""
    actions = pa.table(opened.get_add_actions(flatten=True))
    names = [file_name(unquote(path)) for path in actions["path"].to_pylist()]
    column = f"partition.{table.partition_by}"
    values = actions[column].to_pylist() if table.partition_by else [None] * len(names)
    partition_of = dict(zip(names, values, strict=True))
    found: dict[str | None, list[str]] = {}
    for url in urls_of(opened, None):
        found.setdefault(partition_of[file_name(url)], []).append(url)
    return found


def file_sizes(opened: DeltaTable) -> dict[str, int]:
    """Bytes of the files of an opened version, by file_name; from the log alone."""
    actions = pa.table(opened.get_add_actions(flatten=True))
    sizes = zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True)
    return {file_name(unquote(path)): size for path, size in sizes}


def slice_of(table: Table, partition: str | None, operator: str = "=") -> Slice | None:
    """The filter for one partition (or for all but it), or None for the whole table."""
    if partition is None:
        return None
    assert table.partition_by is not None, table.name
    return [(table.partition_by, operator, partition)]


def urls_of(opened: DeltaTable, searched: Slice | None) -> list[str]:
    """Files of a version; delta-rs writes local paths as in a URL, where a space is %20."""
    urls = opened.file_uris(file_pruning_predicate=searched)
    return [unquote(url) if storage.is_local(url) else url for url in urls]


def dataset_of(urls: list[str], schema: pa.Schema) -> ds.Dataset:
    """Some Parquet files as one pyarrow dataset."""
    fs, _ = storage.filesystem(urls[0])
    paths = [storage.filesystem(url)[1] for url in urls]
    return ds.dataset(paths, schema=schema, format="parquet", filesystem=fs)
