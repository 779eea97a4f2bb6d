"""What spark-submit is told of a cluster, an object store and a lineage server; test_cluster.py runs it."""

import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from sightline import spark_cluster
from sightline.airflow_environment import airflow_environment, prepare_home
from sightline.errors import StorageError
from sightline.settings import Settings, load_settings
from sightline.spark import submit_conf
from sightline.spark_cluster import cluster_conf, make_library

MASTER = "spark://head:7077"


@pytest.fixture
def settings(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Places of the test's own, with jars beside, on this machine's cores."""
    for name in ("SIGHTLINE_SPARK_MASTER", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    settings = load_settings()
    settings.jars.mkdir(parents=True)
    for name in ("hadoop-aws-3.5.0", "s3-2.35.4", "openlineage-spark_2.13-1.53.0"):
        (settings.jars / f"{name}.jar").touch()
    return settings


def jars_of(settings: Settings) -> list[str]:
    """Names of the jars that a job gets."""
    return [
        Path(one).name for one in cluster_conf(settings).get("spark.jars", "").split(",") if one
    ]


def test_a_laptop_needs_none_of_it(settings: Settings) -> None:
    assert cluster_conf(settings) == {}
    assert cluster_conf(replace(settings, spark_master="local[2,4]")) == {}


def test_a_job_on_a_cluster_brings_the_library_by_its_content(settings: Settings) -> None:
    conf = cluster_conf(replace(settings, spark_master=MASTER))
    archive = Path(conf["spark.files"])
    assert conf["spark.executorEnv.PYTHONPATH"] == f"{archive.name}/include"
    assert make_library(settings) == archive
    package = Path(spark_cluster.__file__).parent
    with zipfile.ZipFile(archive) as held:
        names = set(held.namelist())
    assert {
        f"include/sightline/{path.relative_to(package)}" for path in package.rglob("*.py")
    } <= names
    assert not any(".pyc" in name for name in names)


def test_the_archive_can_be_imported_from(settings: Settings, tmp_path: Path) -> None:
    archive = make_library(settings)
    program = "import sightline.parquet as p, sightline.schemas; print(p.__file__)"
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{archive.name}/include", "PATH": os.environ["PATH"]},
        cwd=archive.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == f"{archive}/include/sightline/parquet.py"


def test_tables_on_s3_bring_its_jars_and_lineage_brings_its_own(settings: Settings) -> None:
    on_s3 = replace(settings, storage="s3://bucket/data")
    assert jars_of(on_s3) == ["hadoop-aws-3.5.0.jar", "s3-2.35.4.jar"]
    told = replace(settings, lineage_url="http://marquez:5000")
    assert jars_of(told) == []
    listener = settings.jars / "openlineage-spark_2.13-1.53.0.jar"
    assert cluster_conf(told)["spark.driver.extraClassPath"] == str(listener)
    assert cluster_conf(told)["spark.openlineage.transport.url"] == "http://marquez:5000"
    assert jars_of(replace(told, storage="s3://bucket/data")) == jars_of(on_s3)


def test_tables_on_s3_without_the_jar_are_refused_in_a_sentence(settings: Settings) -> None:
    bare = replace(settings, storage="s3://bucket/data", jars=settings.state / "none")
    with pytest.raises(
        StorageError, match=r"on s3://bucket/data, but Spark has no hadoop-aws .*make jars"
    ):
        cluster_conf(bare)


def test_no_key_stands_on_a_command_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "not-for-others")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-others")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("SIGHTLINE_STORAGE", "s3://bucket/data")
    monkeypatch.setenv("SIGHTLINE_SPARK_MASTER", MASTER)
    monkeypatch.setenv("SIGHTLINE_LINEAGE_URL", "http://marquez:5000")
    conf = submit_conf()
    assert "not-for-others" not in json.dumps(conf)
    assert conf["spark.hadoop.fs.s3a.path.style.access"] == "true"
    assert conf["spark.hadoop.fs.s3a.endpoint.region"] == "eu-central-1"


def test_airflow_is_told_of_cluster_database_and_lineage(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPARK_LOCAL_IP", raising=False)  # a session of this process may have set it
    database = "postgresql+psycopg://airflow:secret@db/airflow"
    told = replace(
        settings, spark_master=MASTER, database=database, lineage_url="http://marquez:5000"
    )
    prepare_home(told)
    environment = airflow_environment(told, port=12345)
    assert json.loads(environment["AIRFLOW_CONN_SPARK_DEFAULT"])["host"] == MASTER
    assert "SPARK_LOCAL_IP" not in environment  # executors of other machines call the driver back
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == database
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] == database
    transport = json.loads(environment["AIRFLOW__OPENLINEAGE__TRANSPORT"])
    assert transport == {"type": "http", "url": "http://marquez:5000"}
    assert environment["AIRFLOW__OPENLINEAGE__SPARK_INJECT_PARENT_JOB_INFO"] == "True"
    assert "secret" not in repr(told)


def test_a_table_is_one_dataset_whatever_folder_of_it_spark_names() -> None:
    pattern = spark_cluster.FILES_OF_A_TABLE.replace("?<remove>", "?P<remove>")
    folder = f"/data/digits/images/files-{'0a' * 16}"
    for path in (folder, f"{folder}/part-00000-x.snappy.parquet"):
        found = re.search(pattern, path)
        assert found is not None
        assert path.replace(found["remove"], "") == "/data/digits/images"
