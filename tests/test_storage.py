"""Storage: local paths and URLs behave alike, and a reader never sees half a file."""

import json
import threading
from pathlib import Path

import pytest

from sightline import storage
from sightline.errors import StorageError


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
    with pytest.raises(
        StorageError, match=r"^Cannot write .*file/x: .*exists"
    ):
        storage.write_bytes(str(tmp_path / "file" / "x"), b"1")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        storage.write_bytes(str(tmp_path / "folder"), b"1")
    assert not list(tmp_path.glob(".*"))


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
