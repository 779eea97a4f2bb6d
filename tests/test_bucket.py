"""The bucket of the storage: made once, on a real S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from sightline import storage
from sightline.bucket import make_bucket
from tests.servers.aws import aws_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty S3 server."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with aws_server() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        S3FileSystem.clear_instance_cache()
        yield
        S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("server")
def test_a_bucket_is_made_once() -> None:
    assert make_bucket("s3://made-once/data") == "made-once"
    assert make_bucket("s3://made-once/data") is None
    storage.write_bytes("s3://made-once/data/file", b"x")


def test_a_folder_needs_no_bucket(tmp_path: Path) -> None:
    assert make_bucket(str(tmp_path)) is None
