"""Tables: exactly one copy of everything, whoever writes at the same time and whoever is killed."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline import schemas, tables
from sightline.errors import StorageError
from sightline.tables import Table, Writer

PROCESSES = 6
DEADLINE_SECONDS = 60
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("partition", pa.string(), nullable=False),
    ]
)

AtOnce = Callable[..., list[Any]]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A table that does not exist yet."""
    return Table("images", str(tmp_path / "images"), SCHEMA, "partition")


@pytest.fixture(scope="module")
def at_once() -> Iterator[AtOnce]:
    """Run a function in six processes at the same time, each with its own number."""
    # A server that has imported the slow packages forks them: much faster than six fresh starts.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sightline.tables", "pytest"])
    barrier = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, context, _share, (barrier,)) as pool:

        def run(function: Callable[..., Any], *arguments: Any) -> list[Any]:
            futures = [pool.submit(function, number, *arguments) for number in range(PROCESSES)]
            return [future.result(DEADLINE_SECONDS) for future in futures]

        yield run


def test_a_table_that_does_not_exist_yet_is_empty(table: Table) -> None:
    assert tables.current_version(table) is None
    assert tables.count_rows(table) == 0
    assert tables.file_urls(table) == []
    assert list(tables.read_batches(table, ["uri"])) == []
    assert tables.held_values(table, "uri", ["a"]) == set()
    assert _uris(table) == []
    assert not Path(table.url).exists()


def test_six_processes_that_replace_one_partition_leave_one_copy(
    table: Table, at_once: AtOnce
) -> None:
    versions = at_once(_replace_with_ten_rows, table, "a")
    assert sum(version is not None for version in versions) == 1
    assert tables.count_rows(table) == 10
    assert len({uri.split("/")[0] for uri in _uris(table)}) == 1


def test_threads_that_append_first_create_the_table_once(table: Table) -> None:
    files = {name: tables.write_batches(table, [_batch([name])]) for name in "abcd"}
    barrier = threading.Barrier(len(files))

    def append(name: str) -> None:
        barrier.wait(DEADLINE_SECONDS)
        tables.append_new(table, files[name], "a", Writer(name))

    with ThreadPoolExecutor(len(files)) as pool:
        list(pool.map(append, files))
    log = Path(table.url).glob("_delta_log/*.json")
    assert sum("CREATE TABLE" in commit.read_text() for commit in log) == 1
    assert _uris(table) == [f"uri-{name}" for name in files]


def test_threads_that_append_take_turns_and_none_looks_twice(table: Table) -> None:
    files = {name: tables.write_batches(table, [_batch([name])]) for name in "abcdef"}
    barrier, looked = threading.Barrier(len(files)), list[str]()

    def append(name: str) -> None:
        def look(keys: list[str]) -> set[str]:
            looked.append(name)
            return set()

        barrier.wait(DEADLINE_SECONDS)
        tables.append_new(table, files[name], "a", Writer(name), barred=look)

    with ThreadPoolExecutor(len(files)) as pool:
        list(pool.map(append, files))
    assert sorted(looked) == list(files)


def test_six_processes_that_replace_four_partitions_each_lose_none_and_double_none(
    table: Table, at_once: AtOnce
) -> None:
    won = at_once(_replace_four_partitions, table)
    assert sorted(sum(won, [])) == ["0", "1", "2", "3"]
    assert [tables.count_rows(table, partition=str(number)) for number in range(4)] == [10] * 4
    assert len(_uris(table)) == 40


def test_six_processes_that_append_overlapping_keys_leave_each_key_once(
    table: Table, at_once: AtOnce
) -> None:
    left_out = at_once(_append_twenty_keys, table)
    ids = _column(table, "image_id")
    assert sorted(ids) == sorted({f"key-{number:03d}" for number in range(70)})
    assert sum(left_out) == PROCESSES * 20 - 70
    assert tables.count_rows(table) == 70


def test_a_process_killed_before_its_commit_leaves_nothing_and_its_retry_one_copy(
    table: Table,
) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(table,))
    process.start()
    process.join(DEADLINE_SECONDS)
    assert process.exitcode == -signal.SIGKILL
    assert list(Path(table.url).rglob("*.parquet"))  # it did write
    assert tables.count_rows(table) == 0
    assert _uris(table) == []

    _replace(table, "a", ["1", "2"])
    assert _uris(table) == ["uri-1", "uri-2"]


def test_a_retry_of_a_finished_task_replaces_its_own_rows(table: Table) -> None:
    _replace(table, "a", ["1", "2"])
    assert _replace(table, "a", ["2", "3"]) is not None
    assert _uris(table) == ["uri-2", "uri-3"]


def test_a_claim_that_another_run_overtook_is_refused(table: Table) -> None:
    slow = tables.claim(table, Writer("write:a", "run 1"))
    _replace(table, "a", ["1"])
    files = tables.write_batches(table, [_batch(["2"], "a")])
    assert tables.replace_partition(table, files, "a", slow) is None
    assert _uris(table) == ["uri-1"]
    assert tables.current_version(table) == 1


def test_replacing_a_partition_leaves_the_others_alone(table: Table) -> None:
    _replace(table, "a", ["1", "2"])
    _replace(table, "b", ["3"])
    before = tables.file_urls(table, partition="a")
    _replace(table, "b", ["4", "5", "6"])
    assert tables.file_urls(table, partition="a") == before
    assert _uris(table) == ["uri-1", "uri-2", "uri-4", "uri-5", "uri-6"]


def test_a_partition_can_be_replaced_by_nothing(table: Table) -> None:
    _replace(table, "a", ["1", "2"])
    _replace(table, "b", ["3"])
    assert _replace(table, "a", []) is not None
    assert _uris(table) == ["uri-3"]
    assert tables.count_rows(table, partition="a") == 0


def test_replacing_without_a_partition_exchanges_the_whole_table(table: Table) -> None:
    whole = Table("splits", table.url, SCHEMA)
    for ids in (["1", "2"], ["3"]):
        held = tables.claim(whole, Writer("split:all"))
        tables.replace_partition(whole, tables.write_batches(whole, [_batch(ids)]), None, held)
    assert _uris(whole) == ["uri-3"]


def test_an_older_version_can_still_be_read(table: Table) -> None:
    first = _replace(table, "a", ["1", "2"])
    _replace(table, "a", ["3"])
    assert tables.count_rows(table, first) == 2
    batches = tables.read_batches(table, ["uri"], first)
    assert [uri for batch in batches for uri in batch["uri"].to_pylist()] == ["uri-1", "uri-2"]


def test_rows_are_counted_from_the_log_as_a_reader_would_count_them(table: Table) -> None:
    _replace(table, "a", ["1", "2", "3"])
    _append(table, "b", ["3", "4", "5"])
    _replace(table, "a", ["6"])
    _append(table, "a", ["6", "7"])
    read = _column(table, "partition")
    assert tables.count_rows(table) == len(read)
    for partition in ("a", "b", "no such partition"):
        assert tables.count_rows(table, partition=partition) == read.count(partition)


def test_appending_drops_a_known_key_and_says_who_holds_it(table: Table) -> None:
    _append(table, "a", ["1", "2"])
    files = tables.write_batches(table, [_batch(["2", "3"], "b", prefix="other")])
    left_out = tables.append_new(table, files, "b", Writer("fetch:b"))
    assert left_out.to_pylist() == [{"image_id": "2", "uri": "other-2", "held_by": "uri-2"}]
    assert _uris(table) == ["other-3", "uri-1", "uri-2"]


def test_a_key_that_repeats_within_one_append_keeps_its_first_row(table: Table) -> None:
    first, again = _batch(["1", "2"]), _batch(["2", "1", "3"], prefix="again")
    files = tables.write_batches(table, [first]) + tables.write_batches(table, [again])
    left_out = tables.append_new(table, files, "a", Writer("fetch:a"))
    assert left_out["held_by"].to_pylist() == ["uri-2", "uri-1"]
    assert _uris(table) == ["again-3", "uri-1", "uri-2"]


def test_the_key_of_an_append_may_be_the_uri(table: Table) -> None:
    for ids in (["1", "2"], ["2", "3"]):
        files = tables.write_batches(table, [_batch(ids)])
        left_out = tables.append_new(table, files, "a", Writer("reject:a"), key="uri")
    assert left_out.to_pylist() == [{"uri": "uri-2", "held_by": "uri-2"}]
    assert _uris(table) == ["uri-1", "uri-2", "uri-3"]


def test_an_append_that_is_repeated_adds_nothing_and_commits_nothing(table: Table) -> None:
    _append(table, "a", ["1", "2"])
    version = tables.current_version(table)
    assert _append(table, "a", ["1", "2"]) == 2
    assert _append(table, "a", []) == 0
    assert tables.current_version(table) == version


def test_each_backbone_keeps_its_own_row_of_an_image(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("image_id", pa.string()), pa.field("backbone_id", pa.string())])
    features = Table("features", str(tmp_path / "features"), schema, "backbone_id")
    for backbone in ("resnet18/random:0 64px", "vgg16", "vgg16"):
        rows = pa.RecordBatch.from_pydict({"image_id": ["1"], "backbone_id": [backbone]}, schema)
        files = tables.write_batches(features, [rows])
        tables.append_new(features, files, backbone, Writer(f"featurize:{backbone}"))
    assert sorted(_column(features, "backbone_id")) == ["resnet18/random:0 64px", "vgg16"]
    assert tables.count_rows(features, partition="resnet18/random:0 64px") == 1


def test_files_as_spark_writes_them_are_read(tmp_path: Path) -> None:
    features = Table("features", str(tmp_path / "features"), schemas.FEATURES, "backbone_id")
    rows = {"image_id": ["1"], "backbone_id": ["vgg16"], "embedding": [[1.0, 2.0]]}
    url = f"{tables.new_folder(features)}/part-00000-c000.snappy.parquet"
    Path(url).parent.mkdir(parents=True)
    # Without Arrow's own schema in it, the list's field is called `element`, as in Spark's files.
    pq.write_table(pa.table(rows, schema=schemas.FEATURES), url, store_schema=False)
    assert tables.count_file_rows([url]) == 1
    tables.append_new(features, [url], "vgg16", Writer("featurize:vgg16"))
    [batch] = tables.read_batches(features, ["embedding"], partition="vgg16")
    assert batch.to_pylist() == [{"embedding": [1.0, 2.0]}]
    assert list(tables.read_batches(features, ["embedding"], partition="resnet18")) == []
    with tables.stream_query(features=features) as sql:
        answers = [batch.to_pylist() for batch in sql("SELECT embedding FROM features")]
    assert answers == [[{"embedding": [1.0, 2.0]}]]


def test_held_values_leaves_the_named_partition_out_of_account(table: Table) -> None:
    _replace(table, "a", ["1", "2"])
    _replace(table, "b", ["3"])
    wanted = ["uri-1", "uri-3", "uri-4"]
    assert tables.held_values(table, "uri", wanted) == {"uri-1", "uri-3"}
    assert tables.held_values(table, "uri", wanted, but_partition="a") == {"uri-3"}


def test_a_query_joins_tables_and_treats_a_missing_one_as_empty(table: Table) -> None:
    _replace(table, "a", ["1", "2"])
    missing = Table("rejects", f"{table.url}-missing", SCHEMA, "partition")
    statement = """
        SELECT images.uri, rejects.uri AS rejected FROM images
        LEFT JOIN rejects ON images.uri = rejects.uri ORDER BY images.uri
    """
    with tables.query(images=table, rejects=missing) as sql:
        assert sql(statement)["uri"].to_pylist() == ["uri-1", "uri-2"]
        assert sql(statement)["rejected"].to_pylist() == [None, None]
    assert not Path(missing.url).exists()


def test_many_bytes_become_several_files_of_one_write(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "FILE_BYTES", 10)
    files = tables.write_batches(table, [_batch(["1"]), _batch([]), _batch(["2"]), _batch(["3"])])
    assert len(files) == 3
    tables.append_new(table, files, "a", Writer("fetch:a"))
    assert _uris(table) == ["uri-1", "uri-2", "uri-3"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a folder")
    blocked = Table("images", str(tmp_path / "file" / "images"), SCHEMA, "partition")
    with pytest.raises(StorageError, match=r"images at .*file/images"):
        tables.write_batches(blocked, [_batch(["1"])])


def test_a_table_whose_log_is_broken_is_named(table: Table) -> None:
    _replace(table, "a", ["1"])
    for entry in (Path(table.url) / "_delta_log").glob("*.json"):
        entry.write_text("{ not json")
    with pytest.raises(StorageError, match=f"images at {table.url}"):
        tables.count_rows(table)


def _batch(ids: list[str], partition: str = "a", prefix: str = "uri") -> pa.RecordBatch:
    columns = {
        "image_id": ids,
        "uri": [f"{prefix}-{number}" for number in ids],
        "partition": [partition] * len(ids),
    }
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def _replace(table: Table, partition: str, ids: list[str]) -> int | None:
    held = tables.claim(table, Writer(f"write:{partition}"))
    files = tables.write_batches(table, [_batch(ids, partition)])
    return tables.replace_partition(table, files, partition, held)


def _append(table: Table, partition: str, ids: list[str]) -> int:
    files = tables.write_batches(table, [_batch(ids, partition)])
    return tables.append_new(table, files, partition, Writer(f"fetch:{partition}")).num_rows


def _column(table: Table, name: str) -> list[str]:
    with tables.query(held=table) as sql:
        values: list[str] = sql(f"SELECT {name} FROM held ORDER BY 1")[name].to_pylist()
    return values


def _uris(table: Table) -> list[str]:
    return _column(table, "uri")


# What the other processes run; they import this file to find it.


def _share(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _meet() -> None:
    """Wait until all six processes are here, so that they truly race."""
    try:
        _barrier.wait(DEADLINE_SECONDS)
    except BrokenBarrierError as error:
        raise TimeoutError("another process did not come to the start of the race") from error


def _replace_with_ten_rows(number: int, table: Table, partition: str) -> int | None:
    held = tables.claim(table, Writer(f"write:{partition}", f"run {number}"))
    rows = _batch([str(row) for row in range(10)], partition, prefix=f"{number}/")
    files = tables.write_batches(table, [rows])
    _meet()
    return tables.replace_partition(table, files, partition, held)


def _replace_four_partitions(number: int, table: Table) -> list[str]:
    order = [str((number + step) % 4) for step in range(4)]
    held = {name: tables.claim(table, Writer(f"write:{name}")) for name in order}
    rows = {name: _batch([f"{name}{row}" for row in range(10)], name) for name in order}
    files = {name: tables.write_batches(table, [rows[name]]) for name in order}
    _meet()
    return [
        name
        for name in order
        if tables.replace_partition(table, files[name], name, held[name]) is not None
    ]


def _append_twenty_keys(number: int, table: Table) -> int:
    keys = [f"key-{key:03d}" for key in range(number * 10, number * 10 + 20)]
    files = tables.write_batches(table, [_batch(keys, str(number), prefix=str(number))])
    _meet()
    left_out = tables.append_new(table, files, str(number), Writer(f"fetch:{number}"))
    return left_out.num_rows


def _write_and_die(table: Table) -> None:
    tables.claim(table, Writer("write:a"))
    tables.write_batches(table, [_batch(["1", "2"])])
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_lost_connection_of_the_source_is_no_fault_of_the_table(tmp_path: Path) -> None:
    """It may pass, so the task is tried again; a StorageError would end it."""

    def batches() -> Iterator[pa.RecordBatch]:
        yield _batch(["1"])
        raise ConnectionError("the source is away")

    table = Table("images", str(tmp_path / "images"), SCHEMA)
    with pytest.raises(ConnectionError, match="the source is away"):
        tables.write_batches(table, batches())
