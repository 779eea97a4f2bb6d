"""The bucket of the storage: made once, on a real S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from sightline import storage
from sightline.bucket import make_bucket


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty S3 server."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.usefixtures("server")
def test_a_bucket_is_made_once() -> None:
    assert make_bucket("s3://made-once/data") == "made-once"
    assert make_bucket("s3://made-once/data") is None
    storage.write_bytes("s3://made-once/data/file", b"x")


def test_a_folder_needs_no_bucket(tmp_path: Path) -> None:
    assert make_bucket(str(tmp_path)) is None
