"""Spark set up for images: small batches, bounded buffers, chunks that are committed as they finish.

The same settings serve a laptop and a cluster; only the master differs, and Airflow's Spark connection
holds it.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from sightline import spark_cluster, storage, tables
from sightline.settings import load_settings
from sightline.tables import Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)
Chunk = TypeVar("Chunk")

# An encoded photo is 0.1-10 MB, so Spark's defaults of thousands of rows a batch would hold gigabytes.
CONF = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": "32",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(32 * 2**20),
    "spark.sql.parquet.columnarReaderBatchSize": "32",
    "spark.sql.parquet.filterPushdown": "true",
    "spark.hadoop.parquet.block.size": str(16 * 2**20),
    # Encoded images never repeat: a dictionary of them would be built in vain.
    "spark.hadoop.parquet.enable.dictionary#content": "false",
    "spark.hadoop.parquet.page.size.row.check.min": "8",
    "spark.hadoop.parquet.block.size.row.check.min": "8",
    "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "8",  # adaptive execution splits or joins them as needed
    "spark.executorEnv.OMP_NUM_THREADS": "1",  # Spark's tasks fill the cores; torch's threads would fight
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "WARN",
}


QUICK_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def submit_conf(quick: bool = True) -> dict[str, str]:
    """Settings for spark-submit. `quick` makes the JVM start fast; a job that computes long in the JVM
    itself (MLlib's iterations) is better off with the full compiler.
    """
    options = list(QUICK_JVM if quick else QUICK_JVM[:1])
    archive = class_archive()
    if archive.exists():
        options += [f"-XX:SharedArchiveFile={archive}", "-Xlog:disable", "-Xlog:all=error:stderr"]
    started = {
        "spark.driver.extraJavaOptions": " ".join(options),
        "spark.executor.extraJavaOptions": " ".join(QUICK_JVM if quick else QUICK_JVM[:1]),
    }
    return {**CONF, **started, **spark_cluster.cluster_conf(load_settings())}


def start_session(name: str) -> "SparkSession":
    """The session of a job; what spark-submit was told wins over our settings."""
    from pyspark.sql import SparkSession

    logging.getLogger("py4j").setLevel(logging.WARNING)  # it tells of each connection that it ends
    settings, conf = load_settings(), CONF
    if spark_cluster.is_local(settings.spark_master):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ.setdefault(
        "PYSPARK_PYTHON", sys.executable
    )  # else workers start the system's python
    builder = SparkSession.builder.appName(name)
    # On YARN a driver is started by no script that would set SPARK_ENV_LOADED.
    if not {"SPARK_ENV_LOADED", "SPARK_REMOTE", "PYSPARK_GATEWAY_PORT"} & os.environ.keys():
        builder = builder.master(settings.spark_master or "local[*]")
        conf = {**CONF, **spark_cluster.cluster_conf(settings)}
    told = _told_to_spark_submit()
    for key, value in conf.items():
        if key not in told:
            builder = builder.config(key, value)
    session = builder.getOrCreate()
    if settings.lineage_url and "SPARK_REMOTE" not in os.environ:
        _quieten_lineage(session)
    return session


def _quieten_lineage(session: "SparkSession") -> None:
    """What its listener could not send is told; not each step of a plan that it has no name for."""
    jvm = session.sparkContext._jvm
    assert jvm is not None
    log4j = jvm.org.apache.logging.log4j
    log4j.core.config.Configurator.setLevel("io.openlineage", log4j.Level.ERROR)


def _told_to_spark_submit() -> set[str]:
    """Names of the settings on spark-submit's command line; the builder's would override them."""
    from pyspark import SparkConf, SparkContext

    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return set()
    SparkContext._ensure_initialized()  # else SparkConf does not ask the JVM
    return {name for name, _ in SparkConf().getAll()}


def read_files(spark: "SparkSession", urls: list[str], schema: pa.Schema) -> "DataFrame":
    """The rows of some Parquet files of a table; no files are no rows."""
    from pyspark.sql.pandas.types import from_arrow_schema

    spark_schema = from_arrow_schema(schema)
    if not urls:
        return spark.createDataFrame([], spark_schema)
    return spark.read.schema(spark_schema).parquet(*[spark_url(url) for url in urls])


def write_files(frame: "DataFrame", folder: str) -> list[str]:
    """Write a frame as Parquet files into a new folder; returns the URLs of those that have rows."""
    frame.write.parquet(spark_url(folder))
    names = [name for name in storage.list_names(folder) if name.endswith(".parquet")]
    urls = [storage.join(folder, name) for name in names]
    return [url for url in urls if tables.count_file_rows([url])]


def write_made(
    frame: "DataFrame",
    make: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    table: Table,
) -> list[str]:
    """Let the workers make rows of a table of a frame's batches, and write them as files of the table, which
    count only once committed; returns their URLs.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    made = frame.mapInArrow(make, from_arrow_schema(table.schema))
    return write_files(made, tables.new_folder(table))


def spark_url(url: str) -> str:
    """A URL as Hadoop's file systems name it."""
    if url.startswith("s3://"):
        return "s3a://" + url.removeprefix("s3://")
    return url if "://" in url else f"file://{url}"


def start_workers(session: "SparkSession") -> None:
    """Let Python workers start in the background, while the driver prepares."""

    def pass_on(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return batches

    job = session.range(1, numPartitions=1).mapInArrow(pass_on, "id long").write.format("noop")
    threading.Thread(target=job.mode("overwrite").save, daemon=True).start()


def most_chunks_at_once(cores: int, is_local: bool = False) -> int:
    """How many chunks keep so many cores busy; each is a thread of the driver, whose heap is small where it
    shares the machine with the workers."""
    return min(cores, 8 if is_local else 64) + 1


def run_chunks(
    spark: "SparkSession", chunks: Iterable[Chunk], work: Callable[[Chunk], Any]
) -> list[Any]:
    """Run a Spark job for each chunk, as many at once as keep every core busy, and one more.

    Each chunk commits by itself, so what a killed job had finished stays finished. The first failure
    stops the rest.
    """
    context = spark.sparkContext
    at_once = most_chunks_at_once(
        context.defaultParallelism, (context.master or "").startswith("local")
    )
    failed, room = threading.Event(), threading.Semaphore(at_once)

    def run(chunk: Chunk) -> Any:
        try:
            return None if failed.is_set() else work(chunk)
        except BaseException:
            failed.set()  # before this thread takes the next chunk
            raise
        finally:
            room.release()

    futures = []
    with ThreadPoolExecutor(at_once) as pool:
        for chunk in chunks:
            room.acquire()  # chunks may cost disk, and are made no faster than they are worked off
            if failed.is_set():
                break
            futures.append(pool.submit(run, chunk))
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        failure = next((error for future in done if (error := future.exception())), None)
        if failure:
            spark.sparkContext.cancelAllJobs()
            raise failure  # not what its end does to the chunks beside it
        return [future.result() for future in futures]


def class_archive() -> Path:
    """Where the JVM's archive of Spark's loaded classes lies: it halves the start of each job."""
    return load_settings().state / "spark-classes.jsa"


def make_class_archive() -> Path | None:
    """Make the class archive (half a minute) where it is missing or of another Spark or Java; None
    where this JVM cannot. Of an archive whose jars were installed anew since, Java makes no use."""
    archive = class_archive()
    made_for, wanted = archive.with_suffix(".txt"), f"{_installed_spark()} {_java_version()}"
    if archive.exists() and made_for.exists() and made_for.read_text() == wanted:
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        made = Path(folder) / "spark.jsa"
        problem = _warm_up(Path(folder), made)
        if not made.exists():
            log.warning("No class archive for Spark (jobs start more slowly): %s", problem)
            return None
        made.replace(archive)
        made_for.write_text(wanted)
    return archive


def _installed_spark() -> str:
    """The version of Spark, and which of its installations it is."""
    import pyspark

    jar = next((Path(pyspark.__file__).parent / "jars").glob("spark-core_*.jar"))
    return f"{pyspark.__version__} {jar} {jar.stat().st_mtime_ns}"


def _warm_up(folder: Path, archive: Path) -> str:
    """Run a small job whose JVM writes its classes to the archive; returns the end of its log."""
    script = folder / "warm_up.py"
    script.write_text(_WARM_UP)
    options = f"{' '.join(QUICK_JVM)} -XX:ArchiveClassesAtExit={archive}"
    settings = [f"--conf={key}={value}" for key, value in CONF.items()]
    command = [
        str(Path(sys.executable).with_name("spark-submit")),
        "--master",
        "local[1]",
        *settings,
    ]
    command += ["--driver-java-options", options, str(script)]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    return done.stderr[-300:]


# Touches what our jobs touch, so that the archive holds their classes.
_WARM_UP = """
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
columns = ["id", "cast(id as string) as uri", "array(cast(id as float)) as embedding"]
rows = spark.range(64).selectExpr(*columns)
rows.mapInArrow(lambda batches: batches, rows.schema).write.parquet("warm")
read = spark.read.parquet("warm")
files = read.select("uri", "_metadata.file_path").join(rows.select("uri"), "uri", "left_anti")
files.groupBy("file_path").count().collect()
read.repartition(2).write.parquet("warm_again")
spark.stop()
"""


def _java_version() -> str:
    java = shutil.which("java") or "java"
    try:
        shown = subprocess.run(
            [java, "-version"], capture_output=True, text=True, check=False
        ).stderr
    except OSError:
        return "none"
    return "".join(part for part in shown.split('"')[1:2]) or "unknown"
