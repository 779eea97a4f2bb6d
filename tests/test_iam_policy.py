"""deploy/iam-policy.json is enough for tables and for nothing else, by a server that checks each request."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from s3fs import S3FileSystem

from sightline import bucket, storage
from sightline.errors import StorageError
from tests.servers.aws import aws_server

pytestmark = pytest.mark.slow

POLICY = (Path(__file__).parents[1] / "deploy" / "iam-policy.json").read_text()
BUCKET = "sightline"


@pytest.fixture
def own_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An S3 server with the bucket, and the keys of a user who has the policy and nothing more."""
    with aws_server() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "root")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "root")
        httpx.post(f"{address}/moto-api/reset").raise_for_status()
        boto3.Session().client("s3").create_bucket(Bucket=BUCKET)
        iam = boto3.Session().client("iam")
        iam.create_user(UserName="sightline")
        iam.put_user_policy(UserName="sightline", PolicyName="tables", PolicyDocument=POLICY)
        key = iam.create_access_key(UserName="sightline")["AccessKey"]
        httpx.post(f"{address}/moto-api/reset-auth", content=b"0").raise_for_status()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        monkeypatch.setenv("SIGHTLINE_STORAGE", f"s3://{BUCKET}/data")
        S3FileSystem.clear_instance_cache()
        yield
        S3FileSystem.clear_instance_cache()
        httpx.post(f"{address}/moto-api/reset-auth", content=b"1000000")


@pytest.mark.usefixtures("own_keys")
def test_tables_and_files_below_the_prefix_are_written_read_and_removed() -> None:
    folder = f"s3://{BUCKET}/data/digits"
    storage.write_json(f"{folder}/models/model.json", {"version": 1})
    assert storage.read_json(f"{folder}/models/model.json") == {"version": 1}
    assert storage.list_names(f"{folder}/models") == ["model.json"]
    assert storage.read_json(f"{folder}/models/none.json") is None
    options = storage.delta_options(folder)
    for number in range(2):
        rows = pa.table({"image_id": [str(number)]})
        write_deltalake(f"{folder}/images", rows, mode="append", storage_options=options)
    table = DeltaTable(f"{folder}/images", storage_options=options)
    assert table.version() == 1
    table.vacuum(0, enforce_retention_duration=False, dry_run=False)
    boto3.Session().client("s3").delete_object(Bucket=BUCKET, Key="data/digits/models/model.json")
    assert storage.list_names(folder) == ["images"]
    assert bucket.make_bucket(folder) is None


@pytest.mark.usefixtures("own_keys")
def test_what_a_store_refuses_to_remove_is_noticed() -> None:
    # This server asks for the right to delete on the bucket itself where many are deleted at once.
    storage.write_bytes(f"s3://{BUCKET}/data/photo", b"x")
    with pytest.raises(StorageError, match="keeps some of it"):
        storage.remove_tree(f"s3://{BUCKET}/data/photo")


@pytest.mark.usefixtures("own_keys")
def test_everything_else_is_refused() -> None:
    with pytest.raises(PermissionError):
        storage.write_bytes(f"s3://{BUCKET}/elsewhere", b"x")
    with pytest.raises(PermissionError):
        storage.read_bytes(f"s3://{BUCKET}/elsewhere")
    s3 = boto3.Session().client("s3")
    for refused in (  # a listing elsewhere is not among them: this server looks at no condition
        lambda: s3.delete_bucket(Bucket=BUCKET),
        lambda: s3.create_bucket(Bucket="another"),
        lambda: s3.put_bucket_policy(Bucket=BUCKET, Policy="{}"),
    ):
        with pytest.raises(s3.exceptions.ClientError, match="AccessDenied|Forbidden|403"):
            refused()


def test_the_policy_names_no_more_than_one_bucket() -> None:
    for statement in json.loads(POLICY)["Statement"]:
        assert statement["Effect"] == "Allow"
        assert statement["Resource"].startswith(f"arn:aws:s3:::{BUCKET}")
        assert "*" not in json.dumps(statement["Action"])
