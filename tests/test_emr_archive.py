"""What is sent to EMR is enough: a real Spark runs the job on executors that have no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyspark
import pytest

from sightline import emr, ingestion, ledger, shipping, tables
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.sources import Access
from sightline.spark_workers import TORCH_WORKERS
from tests.conftest import catalog_of, make_task, write_dataset, write_photos

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.nightly
SECONDS = 300
PREFIX = "spark.emr-serverless.driverEnv."
ONE_OF_LOCAL_CLUSTER = "local-cluster[1,2,4096]"  # executors: cores, megabytes
DATASET = """
source: {{type: folder, path: {path}}}
backbone: {{name: resnet18, weights: random, image_size: 32, precision: fp32}}
compute:
  where: emr_serverless
  executors: 1
  executor_cores: 2
  executor_memory_gigabytes: 4
  conf: {{spark.dynamicAllocation.enabled: "false", spark.ui.enabled: "false"}}
"""
PROBE = """
import sys
from sightline import config, spark

def seen(batches):
    import os, sightline
    for batch in batches:
        yield batch
    print("executor", os.path.realpath(sightline.__file__), file=sys.stderr)
    assert os.path.realpath(sightline.__file__).startswith(os.path.realpath(os.getcwd()))

session = spark.start_session("probe")
assert session.range(4).mapInArrow(seen, "id long").count() == 4
print("master", session.sparkContext.master)
print("dataset", config.load_dataset(sys.argv[1]).name)
print("driver", config.__file__)
session.stop()
"""


@pytest.fixture
def spec(own_places: Path) -> DatasetSpec:
    """Two classes of small photos, whose jobs run on EMR Serverless."""
    path = write_photos(own_places / "photos", {"a": 6, "b": 6})
    return write_dataset(own_places, "photos", DATASET.format(path=path))


@pytest.fixture
def spark_home(tmp_path: Path) -> Path:
    """Spark's home with a folder for its workers that is ours to write."""
    home = tmp_path / "spark"
    home.mkdir()
    for path in Path(pyspark.__file__).parent.iterdir():
        (home / path.name).symlink_to(path)
    return home


def submitted(spec: DatasetSpec, home: Path, place: Path, program: Path | None = None) -> str:
    """Run the job `featurize`, or another program in its place, as EMR does with what it is told."""
    task, _ = make_task("featurize")
    environment = {
        "SIGHTLINE_STORAGE": os.environ["SIGHTLINE_STORAGE"],
        "SIGHTLINE_STATE": str(place / "state"),
        "SIGHTLINE_DAG_ID": task.dag_id,
        "SIGHTLINE_RUN_ID": task.run_id,
    }
    code = shipping.ship("featurize")
    job = emr.Job("name", spec.compute, code, [spec.name], environment, TORCH_WORKERS)
    settings = {
        name: value.replace(emr.PYTHON, sys.executable)
        for name, value in emr.spark_settings(job, PREFIX).items()
    }
    place.mkdir()
    with zipfile.ZipFile(code.archive) as archive:
        archive.extractall(place / emr.UNPACKED)
    told = {
        name.removeprefix(PREFIX): value
        for name, value in settings.items()
        if name.startswith(PREFIX)
    }
    inherited = ("PATH", "JAVA_HOME", "HOME", "TMPDIR")
    known = {name: os.environ[name] for name in inherited if name in os.environ}
    command = [
        str(Path(sys.executable).with_name("spark-submit")),
        "--master",
        ONE_OF_LOCAL_CLUSTER,
    ]
    command += [f"--conf={name}={value}" for name, value in settings.items()]
    done = subprocess.run(
        [*command, str(program or code.program), *job.arguments],
        env={**known, **told, "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"},
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_driver_and_executors_work_from_the_archive(
    spec: DatasetSpec, spark_home: Path, tmp_path: Path
) -> None:
    program = tmp_path / "probe.py"
    program.write_text(PROBE)
    said = submitted(spec, spark_home, tmp_path / "container", program)
    assert f"driver ./{emr.UNPACKED}/include/sightline" in said or (
        f"driver {tmp_path}/container/{emr.UNPACKED}/include/sightline" in said
    )
    assert f"master {ONE_OF_LOCAL_CLUSTER}" in said
    assert "dataset photos" in said


def test_the_job_itself_does_its_work_from_there(
    spec: DatasetSpec, spark_home: Path, tmp_path: Path, spark: "SparkSession"
) -> None:
    catalog: Catalog = catalog_of(spec)
    task, record = make_task("list_images")
    ingestion.list_images(spec, Access(catalog, "all"), task, record)
    ingestion.fetch_images(spark, spec, catalog, *make_task("fetch_images"))
    shutil.rmtree(tmp_path / "photos")  # the job has no business there
    submitted(spec, spark_home, tmp_path / "container")
    assert tables.count_rows(catalog.features) == 12
    done = ledger.read_record(catalog, make_task("featurize")[0])
    assert done is not None
    assert done["counts"]["featurized"] == 12
