"""Storage: local paths and URLs behave alike, and a reader never sees half a file."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from s3fs import S3FileSystem

from sightline import storage, tables
from sightline.errors import StorageError
from sightline.tables import Table, Writer
from tests.servers.aws import aws_server


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on the disk, and one that is only reached through a URL."""
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def test_what_is_written_is_read_back(root: str) -> None:
    url = storage.join(root, "deep", "folder", "file.bin")
    assert not storage.exists(url)
    storage.write_bytes(url, b"one")
    storage.write_bytes(url, b"two")
    assert storage.exists(url)
    assert storage.read_bytes(url) == b"two"


def test_json_is_written_in_a_stable_order(root: str) -> None:
    url = storage.join(root, "value.json")
    assert storage.read_json(url) is None
    storage.write_json(url, {"b": [1, None], "a": "é"})
    assert storage.read_json(url) == {"a": "é", "b": [1, None]}
    assert storage.read_bytes(url).index(b'"a"') < storage.read_bytes(url).index(b'"b"')


def test_names_are_listed_sorted_and_folders_without_their_slash(root: str) -> None:
    assert storage.list_names(storage.join(root, "nowhere")) == []
    for name in ("b.txt", "a/inner.txt", "c.txt"):
        storage.write_bytes(storage.join(root, "folder", name), b"")
    assert storage.list_names(storage.join(root, "folder")) == ["a", "b.txt", "c.txt"]


def test_a_removed_tree_is_gone_and_may_be_removed_again(root: str) -> None:
    storage.write_bytes(storage.join(root, "tree", "deep", "file"), b"x")
    storage.write_bytes(storage.join(root, "other"), b"y")
    for _ in range(2):
        storage.remove_tree(storage.join(root, "tree"))
        assert not storage.exists(storage.join(root, "tree"))
    assert storage.read_bytes(storage.join(root, "other")) == b"y"


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    url = str(tmp_path / "champion.json")
    versions = [{"version": number, "filling": "x" * 200_000} for number in (0, 1)]
    storage.write_json(url, versions[0])
    stop, seen, broken = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            try:
                value = json.loads(Path(url).read_bytes())
                seen.add(value["version"])
            except (OSError, ValueError) as error:
                broken.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        storage.write_json(url, versions[number % 2])
    stop.set()
    reader.join()
    assert broken == []
    assert seen <= {0, 1}
    assert [path.name for path in tmp_path.glob("*champion*")] == ["champion.json"]


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a folder")
    with pytest.raises(StorageError, match=r"^Cannot write .*file/x: .*exists"):
        storage.write_bytes(str(tmp_path / "file" / "x"), b"1")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        storage.write_bytes(str(tmp_path / "folder"), b"1")
    assert not list(tmp_path.glob(".*"))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket on a real S3 server of this machine."""
    with aws_server() as address, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_ENDPOINT_URL", address)
        boto3.client("s3").create_bucket(Bucket="pets-bucket")
        S3FileSystem.clear_instance_cache()  # one of another test would ask another server
        yield "s3://pets-bucket"
    S3FileSystem.clear_instance_cache()


def test_what_another_process_wrote_to_an_object_store_is_seen_at_once(bucket: str) -> None:
    other = boto3.client("s3")
    storage.write_bytes(f"{bucket}/folder/ours", b"1")
    assert storage.list_names(f"{bucket}/folder") == ["ours"]
    other.put_object(Bucket="pets-bucket", Key="folder/theirs", Body=b"2")
    assert storage.list_names(f"{bucket}/folder") == ["ours", "theirs"]
    assert storage.read_bytes(f"{bucket}/folder/theirs") == b"2"
    other.delete_object(Bucket="pets-bucket", Key="folder/ours")
    assert not storage.exists(f"{bucket}/folder/ours")


def test_what_stands_for_a_folder_is_no_file_and_goes_in_its_time(bucket: str) -> None:
    client = boto3.client("s3")
    for key in ("table/failed/", "table/used/", "table/used/rows.parquet"):
        client.put_object(Bucket="pets-bucket", Key=key, Body=b"")
    made_at = max(storage.folder_markers(f"{bucket}/table").values())
    assert set(storage.files_below(f"{bucket}/table")) == {"used/rows.parquet"}
    storage.remove_empty_folders(f"{bucket}/table", made_at - timedelta(days=1))
    assert len(storage.folder_markers(f"{bucket}/table")) == 2
    storage.remove_empty_folders(f"{bucket}/table", made_at + timedelta(seconds=1))
    left = client.list_objects_v2(Bucket="pets-bucket", Prefix="table/")["Contents"]
    assert [one["Key"] for one in left] == ["table/used/rows.parquet"]


def test_many_files_are_all_written_and_a_failure_is_told(bucket: str, tmp_path: Path) -> None:
    for root in (f"{bucket}/many", str(tmp_path / "many")):
        files = {f"{root}/{number}": bytes([number]) for number in range(40)}
        storage.write_many(files.items())
        assert {url: storage.read_bytes(url) for url in files} == files
    with pytest.raises(OSError, match="bucket does not exist"):
        storage.write_many([("s3://not-there/file", b"1")])


def test_tables_live_on_an_object_store(bucket: str) -> None:
    schema = pa.schema([("image_id", pa.string()), ("split", pa.string())])
    splits = Table("splits", f"{bucket}/pets/splits", schema)

    def files(*ids: str) -> list[str]:
        columns = {"image_id": list(ids), "split": ["train"] * len(ids)}
        return tables.write_batches(splits, [pa.RecordBatch.from_pydict(columns, schema=schema)])

    stale = tables.claim(splits, Writer("split:all"))
    claim = tables.claim(splits, Writer("split:all"))
    assert tables.replace_partition(splits, files("1", "2"), None, claim) == 1
    assert tables.replace_partition(splits, files("9"), None, stale) is None
    assert tables.append_new(splits, files("2", "3"), None, Writer("more:all")).num_rows == 1
    with tables.query(splits=splits) as sql:
        assert sql("SELECT image_id FROM splits ORDER BY 1")["image_id"].to_pylist() == [*"123"]
    assert sum(batch.num_rows for batch in tables.read_batches(splits, ["split"])) == 3
    assert tables.count_rows(splits) == 3


def test_urls_are_joined_with_single_slashes() -> None:
    assert storage.join("s3://bucket/", "/a/", "b") == "s3://bucket/a/b"
    assert storage.join("/data", "a") == "/data/a"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("/data", True),
        ("data", True),
        ("file:///data", True),
        ("s3://b", False),
        ("http://h", False),
    ],
)
def test_local_paths_are_told_from_urls(url: str, local: bool) -> None:
    assert storage.is_local(url) is local


def test_free_space_is_known_for_folders_yet_to_be_made(tmp_path: Path) -> None:
    free = storage.free_bytes(str(tmp_path / "not" / "yet"))
    assert free is not None
    assert free > 0
    assert storage.free_bytes("memory://x") is None


def test_delta_gets_the_address_of_a_store_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert storage.delta_options("/data") == {}
    options = storage.delta_options("s3://bucket/data")
    assert options["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9000"
    assert options["AWS_CONDITIONAL_PUT"] == "etag"
