"""What spark-submit is told where Spark runs on other machines, where tables lie on S3, and where lineage
goes to a server; nothing on a laptop.

Each machine of a cluster has the locked packages and the store's keys (its environment or its role); the
library itself travels with each job, so that a job and its executors never differ. Keys are never among
the settings: those stand on a command line.
"""

import os
from pathlib import Path

from sightline import shipping
from sightline.errors import StorageError
from sightline.settings import Settings

LISTENER = "io.openlineage.spark.agent.OpenLineageSparkListener"
# A table is one dataset, whichever of its folders a job has written.
FILES_OF_A_TABLE = "(?<remove>/(files|fetch)-[0-9a-f]{32}.*)"


def cluster_conf(settings: Settings) -> dict[str, str]:
    """The settings for spark-submit; StorageError where a jar is missing."""
    return {
        **library_conf(settings, settings.spark_master),
        **_object_store(settings),
        **_lineage(settings),
    }


def is_local(master: str) -> bool:
    """Whether a master is this machine's own cores."""
    return not master or master.startswith("local")


def library_folder(settings: Settings) -> Path:
    """Where this machine keeps the archives that it has sent."""
    return settings.state / "library"


def make_library(settings: Settings) -> Path:
    """The library as a zip file, named by what it holds; workers import from it."""
    files = shipping.library_files()
    archive = library_folder(settings) / f"sightline-{shipping.digest_of(files)}.zip"
    try:
        os.utime(archive)  # it is in use, and maintenance leaves it
    except FileNotFoundError:
        archive.parent.mkdir(parents=True, exist_ok=True)
        beside = archive.with_name(f".{archive.name}.{os.getpid()}")
        with beside.open("wb") as stream:
            shipping.write_archive(stream, files)
        beside.replace(archive)
    return archive


def library_conf(settings: Settings, master: str) -> dict[str, str]:
    """How the executors of a master get the library."""
    if is_local(master):
        return {}
    archive = make_library(settings)
    return {
        # An executor gets it into its own folder before its first task. Of --py-files, Spark would tell the
        # workers alone, and not the daemon that forks them and imports the library first.
        "spark.files": str(archive),
        "spark.executorEnv.PYTHONPATH": f"{archive.name}/include",
    }


def _store_jars(settings: Settings) -> list[str]:
    """What Spark needs for S3, driver and executors; an image may hold it among Spark's own instead."""
    import pyspark

    found = [path for path in sorted(settings.jars.glob("*.jar")) if not _is_for_lineage(path)]
    own = (Path(pyspark.__file__).parent / "jars").glob("hadoop-aws*.jar")
    if not any("hadoop-aws" in path.name for path in [*found, *own]):
        raise StorageError(
            f"Tables lie on {settings.storage}, but Spark has no hadoop-aws to read them: let 'make jars' "
            f"put it into {settings.jars}, or set SIGHTLINE_JARS to the folder that holds it."
        )
    return [str(path) for path in found]


def _is_for_lineage(jar: Path) -> bool:
    return "openlineage" in jar.name


def _object_store(settings: Settings) -> dict[str, str]:
    if not _is_on_s3(settings):
        return {}
    # A folder is written by one job and read when that has ended, and a task writes one file in it, so
    # a file may go to its place at once: on S3 each further move would be a copy.
    conf = {"spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2"}
    jars = _store_jars(settings)
    if jars:
        conf["spark.jars"] = ",".join(jars)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        conf["spark.hadoop.fs.s3a.endpoint.region"] = region
    if os.environ.get("AWS_ENDPOINT_URL"):  # Spark takes it from there, as it does the keys
        conf["spark.hadoop.fs.s3a.path.style.access"] = "true"  # its buckets have no names of hosts
    return conf


def _lineage(settings: Settings) -> dict[str, str]:
    if not settings.lineage_url:
        return {}
    jars = [str(path) for path in settings.jars.glob("*.jar") if _is_for_lineage(path)]
    # The driver alone listens: by spark.jars, each executor would fetch its 43 MB for each job.
    own = {"spark.driver.extraClassPath": os.pathsep.join(jars)} if jars else {}
    return {
        **own,
        "spark.extraListeners": LISTENER,
        "spark.openlineage.namespace": "sightline",
        "spark.openlineage.transport.type": "http",
        "spark.openlineage.transport.url": settings.lineage_url,
        "spark.openlineage.dataset.removePath.pattern": FILES_OF_A_TABLE,
        "spark.openlineage.jobName.appendDatasetName": "false",  # else each folder makes a job of its own
        # A head's fit is hundreds of small jobs on RDDs; what it reads is known from the queries before.
        "spark.openlineage.filter.rddEventsDisabled": "true",
    }


def _is_on_s3(settings: Settings) -> bool:
    return settings.storage.startswith(("s3://", "s3a://"))
