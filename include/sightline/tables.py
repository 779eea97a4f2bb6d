"""Delta tables without a JVM: files are written beside, then become visible in one atomic commit.

A commit alone is not exactly-once: two writers of one partition can both succeed (measured; see
docs/decisions/002-exactly-once.md). Both ways to write here therefore decide and commit against one
version of the table, and decide again when another writer was faster:

append_new         rows with a key: a key that the table holds already is dropped
replace_partition  a slice: the whole slice is exchanged, by the writer whose claim still stands
remove_rows        the files that hold unwanted rows are written again without them (see erasure.py)
"""

import json
import logging
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from sightline import storage
from sightline.errors import StorageError

log = logging.getLogger(__name__)

Slice = list[tuple[str, str, Any]]  # a partition, as delta-rs filters for it
Mask = Callable[[pa.RecordBatch], Any]  # which rows of a batch are unwanted, as a boolean array

FILE_BYTES = 256 * 2**20
ROWS_AT_ONCE = 8192
IMAGES_AT_ONCE = 64  # of a table that holds bytes
ERASED = (
    "_erased.json"  # in a table's folder: files that are gone for good, and what took their places
)
COMMIT_ATTEMPTS = 200


@dataclass(frozen=True)
class Table:
    """One table of a dataset: where it lies and what its rows are."""

    name: str
    url: str
    schema: pa.Schema
    partition_by: str | None = None


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


@dataclass(frozen=True)
class Removed:
    """What remove_rows did: how many rows are gone, and by file_name the files that were exchanged, each
    with those in its place."""

    rows: int
    successors: dict[str, list[str]]


def open_table(table: Table, version: int | None = None) -> DeltaTable | None:
    """The Delta table at a version (default: its newest), or None where there is none yet.

    StorageError where files of that version were erased since.
    """
    opened = _open(table, version)
    if version is not None and opened is not None:
        gone = erased_files(table)
        if gone and not gone.keys().isdisjoint(map(file_name, _file_urls(opened, None))):
            raise StorageError(
                f"Version {version} of table {table.name} cannot be read any more: it held images that "
                "were taken down; let a new run work from the newest version."
            )
    return opened


def _open(table: Table, version: int | None = None) -> DeltaTable | None:
    options = storage.delta_options(table.url)
    try:
        return DeltaTable(table.url, version=version, storage_options=options)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise StorageError(f"Cannot open table {table.name} at {table.url}: {error}.") from error


def current_version(table: Table) -> int | None:
    """The newest version, or None where there is no table yet."""
    opened = open_table(table)
    return None if opened is None else opened.version()


def file_urls(table: Table, version: int | None = None, partition: str | None = None) -> list[str]:
    """URLs of the Parquet files that make up a version, or one partition of it."""
    opened = open_table(table, version)
    if opened is None:
        return []
    return sorted(_file_urls(opened, _slice(table, partition)))


def erased_files(table: Table) -> dict[str, list[str]]:
    """By file_name the files that a take-down has erased, each with those that took its place."""
    found: dict[str, list[str]] | None = storage.read_json(storage.join(table.url, ERASED))
    return found or {}


def surviving_urls(table: Table, version: int | None = None) -> list[str]:
    """URLs of what is left of a version: where files of it were erased, of those in their places."""
    opened = _open(table, version)
    gone = erased_files(table)
    left = [] if opened is None else _file_urls(opened, None)
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
    return [(url, rows[file_name(url)]) for url in _file_urls(opened, None)]


def file_name(url: str) -> str:
    """The last two parts of a path: they name a file of a table, however the rest is spelled."""
    return "/".join(url.split("/")[-2:])


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
    searched = _slice(table, partition) or _slice(table, but_partition, "!=")
    return set(_held_rows(table, [column], column, values, searched)[column].to_pylist())


def rows_elsewhere(
    table: Table, columns: list[str], column: str, values: list[str], partition: str
) -> pa.Table:
    """Columns of the rows of all partitions but one that hold one of these values."""
    return _held_rows(table, columns, column, values, _slice(table, partition, "!="))


def _held_rows(
    table: Table, columns: list[str], column: str, values: list[str], searched: Slice | None
) -> pa.Table:
    opened = open_table(table)
    files = _file_urls(opened, searched) if opened else []
    if not files or not values:
        return table.schema.empty_table().select(columns)
    ours = ds.field(column).isin(pa.array(values))
    return dataset_of(files, table.schema).to_table(columns=columns, filter=ours)


@contextmanager
def query(**tables: Table | DeltaTable) -> Iterator[Callable[[str], pa.Table]]:
    """Run SQL over tables by name; a table that does not exist yet counts as empty.

    >>> with query(images=catalog.images) as sql:
    ...     sql("SELECT label, count(*) AS n FROM images GROUP BY label")
    """
    with stream_query(**tables) as sql:
        yield lambda statement: pa.table(sql(statement).read_all())


@contextmanager
def stream_query(**tables: Table | DeltaTable) -> Iterator[Callable[[str], pa.RecordBatchReader]]:
    """As `query`, but the answer comes batch by batch, for answers that grow with the dataset."""
    builder = QueryBuilder()
    with tempfile.TemporaryDirectory() as empty:
        for name, table in tables.items():
            opened = table if isinstance(table, DeltaTable) else open_table(table)
            if opened is None and isinstance(table, Table):
                create_table_with_add_actions(
                    f"{empty}/{name}", Schema.from_arrow(table.schema), []
                )
                opened = DeltaTable(f"{empty}/{name}")
            assert opened is not None
            builder.register(name, opened)
        yield lambda statement: pa.RecordBatchReader.from_stream(builder.execute(statement))


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
    except (
        ConnectionError
    ):  # of the source that the batches come from, or of the store: it may pass
        raise
    except OSError as error:
        raise StorageError(f"Cannot write table {table.name} at {folder}: {error}.") from error
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
            _discard(table, urls)
            return None
        actions = [_add_action(table, url, partition) for url in urls]
        replaced = _slice(table, partition)
        if _commit(opened, table, actions, "overwrite", held.writer, transaction + 1, replaced):
            return opened.version() + 1
    raise _too_busy(table)


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
    for opened in _versions(table):
        held_by = _held_by(opened, table, ours, key, partition)
        never = barred(ours[key].to_pylist())
        if never:
            keys = ours[key].to_pylist()
            held_by = [
                "" if one in never else held for one, held in zip(keys, held_by, strict=True)
            ]
        is_new = [holder is None for holder in held_by]
        kept_urls = urls if all(is_new) else _write_kept(table, urls, is_new)
        actions = [_add_action(table, url, partition) for url in kept_urls]
        transaction = (opened.transaction_version(writer.identity) or 0) + 1
        is_done = not actions or _commit(
            opened, table, actions, "append", writer, transaction, None
        )
        if kept_urls is not urls:
            _discard(table, urls if is_done else kept_urls)
        if is_done:
            holders = pa.array(held_by, pa.string())
            return ours.append_column("held_by", holders).filter(pc.is_valid(holders))
    raise _too_busy(table)


def remove_rows(table: Table, columns: list[str], unwanted: Mask, writer: Writer) -> Removed:
    """Take rows out of the newest version: the mask sees batches of these columns.

    A partition is exchanged in one commit, its other files copied, for a commit can only replace whole
    partitions. A last commit changes nothing: who has decided on an earlier version decides again.
    """
    rows, successors = 0, dict[str, list[str]]()
    if _open(table) is None:
        return Removed(rows, successors)
    while slices := _slices_with(table, columns, unwanted):
        for partition in slices:
            removed = _remove_from(table, partition, columns, unwanted, writer)
            rows += removed.rows
            successors |= removed.successors
    for opened in _versions(table):
        transaction = (opened.transaction_version(writer.identity) or 0) + 1
        if _commit(opened, table, [], "append", writer, transaction, None):
            return Removed(rows, successors)
    raise _too_busy(table)


def count_unwanted(url: str, columns: list[str], unwanted: Mask) -> int:
    """How many rows of a Parquet file a mask picks; columns that the file lacks are not looked at."""
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as stream:
        file = pq.ParquetFile(stream)
        present = [name for name in columns if name in file.schema_arrow.names]
        if not present:
            return 0
        batches = file.iter_batches(ROWS_AT_ONCE, columns=present, use_threads=False)
        return sum(int(pc.sum(unwanted(batch)).as_py() or 0) for batch in batches)


def literal(text: str) -> str:
    """Text as SQL writes it; labels and names come from strangers."""
    return "'" + text.replace("'", "''") + "'"


def _slices_with(table: Table, columns: list[str], unwanted: Mask) -> list[str | None]:
    """The partitions (of a table without any: None) that hold unwanted rows."""
    opened = _open(table)
    assert opened is not None  # the caller has looked
    held = _slice_of(opened, table)
    urls = _file_urls(opened, None)
    return list(
        dict.fromkeys(
            held[file_name(url)] for url in urls if count_unwanted(url, columns, unwanted)
        )
    )


def _slice_of(opened: DeltaTable, table: Table) -> dict[str, str | None]:
    """The partition of each file, by file_name."""
    actions = pa.table(opened.get_add_actions(flatten=True))
    names = [file_name(unquote(path)) for path in actions["path"].to_pylist()]
    if table.partition_by is None:
        return dict.fromkeys(names)
    values = actions[f"partition.{table.partition_by}"].to_pylist()
    return dict(zip(names, values, strict=True))


def _remove_from(
    table: Table, partition: str | None, columns: list[str], unwanted: Mask, writer: Writer
) -> Removed:
    """Exchange one partition for the same without the unwanted rows, in one commit."""
    for opened in _versions(table):
        rows, successors = 0, dict[str, list[str]]()
        for url in _file_urls(opened, _slice(table, partition)):
            picked = count_unwanted(url, columns, unwanted)
            rows += picked
            successors[url] = _without(table, url, unwanted) if picked else [_copy(table, url)]
        if not rows:  # another take-down was faster
            _discard(table, [one for new in successors.values() for one in new])
            return Removed(0, {})
        written = [url for new in successors.values() for url in new]
        actions = [_add_action(table, url, partition) for url in written]
        transaction = (opened.transaction_version(writer.identity) or 0) + 1
        replaced = _slice(table, partition)
        if _commit(opened, table, actions, "overwrite", writer, transaction, replaced):
            names = {
                file_name(old): [file_name(one) for one in new] for old, new in successors.items()
            }
            return Removed(rows, names)
        _discard(table, written)
    raise _too_busy(table)


def _without(table: Table, url: str, unwanted: Mask) -> list[str]:
    """A file again, without its unwanted rows."""
    has_bytes = any(pa.types.is_binary(column.type) for column in table.schema)

    def kept() -> Iterator[pa.RecordBatch]:
        for stream in _streams([url]):
            file = pq.ParquetFile(stream)
            for batch in file.iter_batches(IMAGES_AT_ONCE if has_bytes else ROWS_AT_ONCE):
                yield batch.filter(pc.invert(unwanted(batch)))

    return write_batches(table, kept())


def _copy(table: Table, url: str) -> str:
    fs, path = storage.filesystem(url)
    folder = new_folder(table)
    fs.makedirs(storage.filesystem(folder)[1], exist_ok=True)
    copied = storage.join(folder, url.rsplit("/", 1)[-1])
    fs.cp_file(path, storage.filesystem(copied)[1])
    return copied


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
        )
    except (DeltaError, OSError) as error:
        if open_table(table) is None:  # not merely created by another writer in the meantime
            raise StorageError(f"Cannot create {table.name} at {table.url}: {error}.") from error


def _commit(
    opened: DeltaTable,
    table: Table,
    actions: list[AddAction],
    mode: str,
    writer: Writer,
    transaction: int,
    replaced: Slice | None,
) -> bool:
    """Commit on top of exactly the opened version; False when another commit came first."""
    properties = CommitProperties(
        custom_metadata={"sightline.task": writer.identity, "sightline.run": writer.run},
        app_transactions=[Transaction(writer.identity, transaction)],
        max_commit_retries=0,
    )
    try:
        opened.create_write_transaction(
            actions,  # type: ignore[arg-type]
            mode,
            table.schema,
            partition_by=[table.partition_by] if table.partition_by else None,
            partition_filters=replaced,
            commit_properties=properties,
        )
    except CommitFailedError:
        return False
    return True


def _slice(table: Table, partition: str | None, operator: str = "=") -> Slice | None:
    """The filter for one partition (or for all but it), or None for the whole table."""
    if partition is None:
        return None
    assert table.partition_by is not None, table.name
    return [(table.partition_by, operator, partition)]


def _file_urls(opened: DeltaTable, searched: Slice | None) -> list[str]:
    """Files of a version; delta-rs writes local paths as in a URL, where a space is %20."""
    urls = opened.file_uris(file_pruning_predicate=searched)
    return [unquote(url) if storage.is_local(url) else url for url in urls]


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


def _held_by(
    opened: DeltaTable, table: Table, ours: pa.Table, key: str, partition: str | None
) -> list[str | None]:
    """For each of our rows, who holds its key already: the table, or an earlier row of ours."""
    # An image has a row for each backbone, or each model.
    scoped = table.partition_by in ("backbone_id", "model_version")
    searched = _slice(table, partition if scoped else None)
    name = "uri" if "uri" in ours.schema.names else key
    holders: dict[str, str] = {}
    files = _file_urls(opened, searched)
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


def _discard(table: Table, urls: list[str]) -> None:
    """Delete files that the table does not count; a commit that seemed to fail may have gone through."""
    counted = {file_name(url) for url in file_urls(table)}
    for url in urls:
        if file_name(url) not in counted:
            fs, path = storage.filesystem(url)
            fs.rm_file(path)


def _streams(urls: list[str]) -> Iterator[Any]:
    """The files opened one after the other."""
    for url in urls:
        fs, path = storage.filesystem(url)
        with fs.open(path, "rb") as stream:
            yield stream


def dataset_of(urls: list[str], schema: pa.Schema) -> ds.Dataset:
    """Some Parquet files as one pyarrow dataset."""
    fs, _ = storage.filesystem(urls[0])
    paths = [storage.filesystem(url)[1] for url in urls]
    return ds.dataset(paths, schema=schema, format="parquet", filesystem=fs)


def _close(writer: pq.ParquetWriter, sink: Any) -> None:
    writer.close()
    sink.close()


def _too_busy(table: Table) -> StorageError:
    return StorageError(
        f"Table {table.name} at {table.url} was changed by others {COMMIT_ATTEMPTS} times while this "
        "task tried to commit; let other runs of the dataset finish, then clear the task."
    )
