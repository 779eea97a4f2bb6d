"""Delta tables without a JVM: files are written beside, then become visible in one atomic commit.

A commit alone is not exactly-once: two writers of one partition can both succeed (measured; see
docs/decisions/002-exactly-once.md). Both ways to write here therefore decide and commit against one
version of the table, and decide again when another writer was faster:

append_new         rows with a key: a key that the table holds already is dropped
replace_partition  a slice: the whole slice is exchanged, by the writer whose claim still stands
exchange           files of a slice, by what is made of them: rows taken out (removals.py), or few large
                   files of many small ones (compaction.py)
"""

import json
import logging
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from sightline import storage
from sightline.delta import (
    LOG,
    Slice,
    Table,
    count_rows,
    current_version,
    dataset_of,
    erased_files,
    file_name,
    file_rows,
    in_turn,
    literal,
    open_table,
    query,
    slice_of,
    stream_query,
    surviving_urls,
    urls_of,
    version_or_newest,
)
from sightline.errors import StorageError
from sightline.schema_evolution import KEEP_LOG, add_missing_columns

__all__ = [
    "Table",
    "count_rows",
    "current_version",
    "dataset_of",
    "erased_files",
    "file_name",
    "file_rows",
    "literal",
    "open_table",
    "query",
    "stream_query",
    "surviving_urls",
    "version_or_newest",
]

log = logging.getLogger(__name__)


FILE_BYTES = 256 * 2**20
COMMIT_ATTEMPTS = 200


@dataclass(frozen=True)
class Writer:
    """Who commits: `identity` names the task and its slice, `run` the Airflow run it belongs to."""

    identity: str
    run: str = ""


@dataclass(frozen=True)
class Claim:
    """The state of a slice when its writer began; a later commit by another writer voids it."""

    writer: Writer
    transaction: int


def file_urls(table: Table, version: int | None = None, partition: str | None = None) -> list[str]:
    """URLs of the Parquet files that make up a version, or one partition of it."""
    opened = open_table(table, version)
    if opened is None:
        return []
    return sorted(urls_of(opened, slice_of(table, partition)))


def count_file_rows(urls: list[str]) -> int:
    """Rows of some Parquet files, from their footers."""
    return sum(pq.ParquetFile(stream).metadata.num_rows for stream in _streams(urls))


def read_batches(
    table: Table,
    columns: list[str],
    version: int | None = None,
    batch_rows: int = 8192,
    partition: str | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream some columns of a version, or of one partition of it; memory is bounded by the batch."""
    files = file_urls(table, version, partition)
    if files:
        yield from dataset_of(files, table.schema).to_batches(
            columns=columns, batch_size=batch_rows, batch_readahead=1, fragment_readahead=1
        )


def held_values(
    table: Table,
    column: str,
    values: list[str],
    partition: str | None = None,
    but_partition: str | None = None,
) -> set[str]:
    """Which of these values a column of the table holds, in one partition or in all but one."""
    searched = slice_of(table, partition) or slice_of(table, but_partition, "!=")
    return set(_held_rows(table, [column], column, values, searched)[column].to_pylist())


def rows_elsewhere(
    table: Table, columns: list[str], column: str, values: list[str], partition: str
) -> pa.Table:
    """Columns of the rows of all partitions but one that hold one of these values."""
    return _held_rows(table, columns, column, values, slice_of(table, partition, "!="))


def _held_rows(
    table: Table, columns: list[str], column: str, values: list[str], searched: Slice | None
) -> pa.Table:
    opened = open_table(table)
    files = urls_of(opened, searched) if opened else []
    if not files or not values:
        return table.schema.empty_table().select(columns)
    ours = ds.field(column).isin(pa.array(values))
    return dataset_of(files, table.schema).to_table(columns=columns, filter=ours)


def write_batches(table: Table, batches: Iterable[pa.RecordBatch]) -> list[str]:
    """Stream batches into new Parquet files of a table, not yet visible; returns their URLs."""
    folder = new_folder(table)
    fs, path = storage.filesystem(folder)
    urls: list[str] = []
    writer: pq.ParquetWriter | None = None
    written_bytes = 0
    try:
        for batch in batches:
            if batch.num_rows == 0:
                continue
            if writer is None:
                fs.makedirs(path, exist_ok=True)
                urls.append(f"{folder}/part-{len(urls):05d}.parquet")
                sink = fs.open(storage.filesystem(urls[-1])[1], "wb")
                writer, written_bytes = pq.ParquetWriter(sink, table.schema), 0
            writer.write_batch(batch.select(table.schema.names).cast(table.schema))
            written_bytes += batch.nbytes
            if written_bytes > FILE_BYTES:
                _close(writer, sink)
                writer = None
    except ConnectionError:  # of the batches' source, or of the store: it may pass
        raise
    except OSError as error:
        raise storage.failure(f"write table {table.name}", folder, error) from error
    finally:
        if writer is not None:
            _close(writer, sink)
    return urls


def new_folder(table: Table) -> str:
    """A folder of a table that no other writer uses; its files count only once committed."""
    return storage.join(table.url, f"files-{uuid.uuid4().hex}")


def claim(table: Table, writer: Writer) -> Claim:
    """Remember the state of a writer's slice before the work on it begins."""
    opened = open_table(table)
    transaction = opened.transaction_version(writer.identity) if opened else None
    return Claim(writer, transaction or 0)


def replace_partition(
    table: Table, urls: list[str], partition: str | None, held: Claim
) -> int | None:
    """Exchange a partition (or, with None, the whole table) for these files, in one commit.

    Returns the table version, or None when another run of the same task committed since the claim:
    then its rows stay and ours are dropped, so that one copy remains.
    """
    for opened in _versions(table):
        transaction = opened.transaction_version(held.writer.identity) or 0
        if transaction != held.transaction:
            log.info("%s: another run of %s was faster; its rows stay", table.name, held.writer)
            _discard(urls)
            return None
        actions = [_add_action(table, url, partition) for url in urls]
        replaced = slice_of(table, partition)
        if _commit(opened, table, actions, "overwrite", held.writer, transaction + 1, replaced):
            return opened.version() + 1
    raise _too_busy(table)


@in_turn
def append_new(
    table: Table,
    urls: list[str],
    partition: str | None,
    writer: Writer,
    key: str = "image_id",
    barred: Callable[[list[str]], set[str]] = lambda keys: set(),
) -> pa.Table:
    """Add the rows of these files whose key the table does not hold yet, in one commit.

    `barred` says which keys may not be added, and is asked again before each try to commit. Returns the
    rows left out: their key, their uri where the table has uris, and `held_by`, the uri (else the key) of
    the row that holds the same key, or nothing ("") for a barred one.
    """
    if not urls:
        return pa.table({key: pa.array([], pa.string()), "held_by": pa.array([], pa.string())})
    columns = [name for name in dict.fromkeys((key, "uri")) if name in table.schema.names]
    ours = pa.concat_tables(pq.read_table(stream, columns=columns) for stream in _streams(urls))
    keys = ours[key].to_pylist()
    for opened in _versions(table):
        held_by = _held_by(opened, table, ours, key, partition)
        never = barred(keys)
        held_by = ["" if one in never else held for one, held in zip(keys, held_by, strict=True)]
        is_new = [holder is None for holder in held_by]
        kept_urls = urls if all(is_new) else _write_kept(table, urls, is_new)
        actions = [_add_action(table, url, partition) for url in kept_urls]
        transaction = (opened.transaction_version(writer.identity) or 0) + 1
        is_done = not actions or _commit(opened, table, actions, "append", writer, transaction)
        if kept_urls is not urls:
            _discard(urls if is_done else kept_urls)
        if is_done:
            holders = pa.array(held_by, pa.string())
            return ours.append_column("held_by", holders).filter(pc.is_valid(holders))
    raise _too_busy(table)


def exchange(
    table: Table,
    partition: str | None,
    rewrite: Callable[[list[str]], list[str] | None],
    writer: Writer,
) -> None:
    """Exchange a partition's files for what `rewrite` makes of them (None: leave it), in one commit; it is
    asked again when another commit came first. Files that it returns are new ones, or stay.
    """
    for opened in _versions(table):
        before = urls_of(opened, slice_of(table, partition))
        after = rewrite(before)
        if after is None:
            return
        held, kept = set(before), set(after)
        new = [url for url in after if url not in held]
        actions: list[AddAction | RemoveAction] = [
            _add_action(table, url, partition) for url in new
        ]
        actions += [_remove_action(table, url, partition) for url in before if url not in kept]
        transaction = (opened.transaction_version(writer.identity) or 0) + 1
        if _commit(opened, table, actions, "append", writer, transaction):
            return
        _discard(new)
    raise _too_busy(table)


def touch(table: Table, writer: Writer) -> None:
    """Commit nothing, so that who has decided on an earlier version decides again."""
    for opened in _versions(table):
        transaction = (opened.transaction_version(writer.identity) or 0) + 1
        if _commit(opened, table, [], "append", writer, transaction):
            return
    raise _too_busy(table)


def _versions(table: Table) -> Iterator[DeltaTable]:
    """The table afresh, again and again, with a pause that keeps many writers apart."""
    for attempt in range(COMMIT_ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(0.0, min(1.0, 0.02 * 2 ** min(attempt, 6))))
        opened = open_table(table)
        if opened is None:
            _create(table)
            opened = open_table(table)
        if opened is not None:
            add_missing_columns(opened, table.schema)
            yield opened


def _create(table: Table) -> None:
    partition_by = [table.partition_by] if table.partition_by else None
    try:
        create_table_with_add_actions(
            table.url,
            Schema.from_arrow(table.schema),
            [],
            mode="error",
            partition_by=partition_by,
            name=table.name,
            storage_options=storage.delta_options(table.url),
            # With retries, delta-rs creates the table once more on top of another writer's.
            commit_properties=CommitProperties(max_commit_retries=0),
        )
    except (DeltaError, OSError) as error:
        if open_table(table) is None:  # not merely created by another writer in the meantime
            raise storage.failure(f"create {table.name}", table.url, error) from error


def _commit(
    opened: DeltaTable,
    table: Table,
    actions: Sequence[AddAction | RemoveAction],
    mode: str,
    writer: Writer,
    transaction: int,
    replaced: Slice | None = None,
) -> bool:
    """Commit on top of exactly the opened version; False when another commit came first."""
    mark = uuid.uuid4().hex
    named = {"sightline.task": writer.identity, "sightline.run": writer.run}
    properties = CommitProperties(
        custom_metadata={**named, "sightline.mark": mark},
        app_transactions=[Transaction(writer.identity, transaction)],
        max_commit_retries=0,
    )
    try:
        opened.create_write_transaction(
            list(actions),
            mode,
            table.schema,
            partition_by=[table.partition_by] if table.partition_by else None,
            partition_filters=replaced,
            commit_properties=properties,
            post_commithook_properties=KEEP_LOG,
        )
    except CommitFailedError:
        return _is_marked(table, opened.version() + 1, mark)
    return True


def _is_marked(table: Table, version: int, mark: str) -> bool:
    """Whether a version is the commit with this mark: done, though its answer was lost. The entry is read by
    its name: a listing may be old, and would let us discard what is committed."""
    try:
        entry = storage.read_bytes(storage.join(table.url, LOG, f"{version:020d}.json"))
    except FileNotFoundError:
        return False
    return mark.encode() in entry


def _add_action(table: Table, url: str, partition: str | None) -> AddAction:
    fs, path = storage.filesystem(url)
    root = storage.filesystem(table.url)[1]
    with fs.open(path, "rb") as stream:
        rows = pq.ParquetFile(stream).metadata.num_rows
    values: dict[str, str | None] = {table.partition_by: partition} if table.partition_by else {}
    return AddAction(
        path=path.removeprefix(root).lstrip("/"),
        size=fs.size(path),
        partition_values=values,
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": rows}),
    )


def _remove_action(table: Table, url: str, partition: str | None) -> RemoveAction:
    root, path = (storage.filesystem(one)[1] for one in (table.url, url))
    return RemoveAction(
        path=path.removeprefix(root).lstrip("/"),
        data_change=True,
        deletion_timestamp=int(time.time() * 1000),
        partition_values={table.partition_by: partition} if table.partition_by else {},
    )


def _held_by(
    opened: DeltaTable, table: Table, ours: pa.Table, key: str, partition: str | None
) -> list[str | None]:
    """For each of our rows, who holds its key already: the table, or an earlier row of ours."""
    # An image has a row for each backbone, or each model.
    scoped = table.partition_by in ("backbone_id", "model_version")
    searched = slice_of(table, partition if scoped else None)
    name = "uri" if "uri" in ours.schema.names else key
    holders: dict[str, str] = {}
    files = urls_of(opened, searched)
    if files:
        ours_keys = ds.field(key).isin(ours[key].combine_chunks())
        held = dataset_of(files, table.schema).to_table(
            columns=sorted({key, name}), filter=ours_keys
        )
        holders = dict(zip(held[key].to_pylist(), held[name].to_pylist(), strict=True))
    held_by = []
    for value, owner in zip(ours[key].to_pylist(), ours[name].to_pylist(), strict=True):
        held_by.append(holders.get(value))
        holders.setdefault(value, owner)
    return held_by


def _write_kept(table: Table, urls: list[str], keep: list[bool]) -> list[str]:
    """The same files again without some rows; `keep` has one entry a row, in the files' order."""

    def kept() -> Iterator[pa.RecordBatch]:
        row = 0
        for stream in _streams(urls):
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=64):
                yield batch.filter(pa.array(keep[row : row + batch.num_rows], pa.bool_()))
                row += batch.num_rows

    return write_batches(table, kept())


def _discard(urls: list[str]) -> None:
    """Delete files that no commit has named."""
    for url in urls:
        fs, path = storage.filesystem(url)
        fs.rm_file(path)


def _streams(urls: list[str]) -> Iterator[Any]:
    """The files opened one after the other."""
    for url in urls:
        fs, path = storage.filesystem(url)
        with fs.open(path, "rb") as stream:
            yield stream


def _close(writer: pq.ParquetWriter, sink: Any) -> None:
    writer.close()
    sink.close()


def _too_busy(table: Table) -> StorageError:
    return StorageError(
        f"Table {table.name} at {table.url} was changed by others {COMMIT_ATTEMPTS} times while this "
        "task tried to commit; let other runs of the dataset finish, then clear the task."
    )
