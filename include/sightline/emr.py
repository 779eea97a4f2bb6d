"""A Spark job as Amazon EMR is told it: an EMR Serverless job run, or a cluster that lives for one step.

Nothing here speaks to AWS. The Airflow connections `emr_serverless` and `emr_default` say whose account it
is; docs/emr.md shows them.
"""

from dataclasses import dataclass
from typing import Any

from sightline import spark
from sightline.compute_config import ComputeSpec
from sightline.config import DatasetSpec
from sightline.errors import ConfigError
from sightline.shipping import Shipped

PYTHON = "/opt/sightline/bin/python"  # where the image and the bootstrap put the locked packages
UNPACKED = "sightline"  # the archive's folder, beside each process of the job
LOGS = "_logs"  # of the storage
SERVERLESS, CLUSTER = "emr_serverless", "emr_default"  # the connections
DYNAMIC = "spark.dynamicAllocation.enabled"
IDLE_SECONDS = 1_800  # after which EMR itself ends a cluster that nobody has ended


@dataclass(frozen=True)
class Job:
    """What is to be run, wherever it is run."""

    name: str
    compute: ComputeSpec
    code: Shipped
    arguments: list[str]
    environment: dict[str, str]
    conf: dict[str, str]  # the stage's own
    barrier_processes: int | None = None  # of a barrier stage, which must all start together


def check_storage(storage_url: str) -> None:
    """ConfigError where a cluster of AWS could not reach the tables."""
    if not storage_url.startswith("s3://"):
        raise ConfigError(
            f"Jobs on EMR read and write tables on S3, but SIGHTLINE_STORAGE is {storage_url}; set it to "
            "s3://<bucket>/<folder>, or the dataset's compute to spark."
        )


def barrier_processes(spec: DatasetSpec, stage: str) -> int | None:
    """How many processes a stage starts together in Spark's barrier mode; None if it uses no barrier."""
    if stage == "fine_tune" and spec.fine_tune is not None:
        return spec.fine_tune.processes
    return None


def serverless_driver(job: Job) -> dict[str, Any]:
    """`jobDriver` of StartJobRun."""
    submit = {"entryPoint": job.code.program, "entryPointArguments": job.arguments}
    return {"sparkSubmit": submit}


def serverless_settings(job: Job, log_uri: str) -> dict[str, Any]:
    """`configurationOverrides` of StartJobRun: as a map, where no value can break a command line."""
    properties = spark_settings(job, "spark.emr-serverless.driverEnv.")
    return {
        "applicationConfiguration": [
            {"classification": "spark-defaults", "properties": properties}
        ],
        "monitoringConfiguration": {"s3MonitoringConfiguration": {"logUri": log_uri}},
    }


def job_flow(
    job: Job, account: dict[str, Any], bootstrap: list[str], log_uri: str
) -> dict[str, Any]:
    """RunJobFlow's request: a cluster as `account` describes it, which runs the job and ends itself,
    whether the job ends well or not. `bootstrap` is the script that installs the packages, and its
    arguments; an AMI of one's own has them already.
    """
    packages = {"Path": bootstrap[0], "Args": bootstrap[1:]}
    own = [] if "CustomAmiId" in account else [_action("Sightline's packages", packages)]
    alive = {"KeepJobFlowAliveWhenNoSteps": False, "TerminationProtected": False}
    return {
        "Applications": [{"Name": "Spark"}],
        "AutoTerminationPolicy": {"IdleTimeout": IDLE_SECONDS},
        **account,
        "Name": job.name,
        "LogUri": log_uri,
        "BootstrapActions": [*account.get("BootstrapActions", []), *own],
        "Instances": {**account["Instances"], **alive},
        "Steps": [_step(job)],
    }


def spark_settings(job: Job, driver_prefix: str) -> dict[str, str]:
    """Every setting of Spark for a job; what the dataset file says comes last."""
    environment = {**job.environment, "PYTHONPATH": f"./{UNPACKED}/include"}
    driver = {**environment, "PYSPARK_PYTHON": PYTHON, "PYSPARK_DRIVER_PYTHON": PYTHON}
    executor = {**environment, "PYSPARK_PYTHON": PYTHON}
    compute, processes = job.compute, job.barrier_processes
    return {
        **spark.CONF,
        **job.conf,
        "spark.ui.enabled": "true",
        # A folder that is being written is read by nobody yet, and a move is a copy on S3.
        "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2",
        "spark.archives": f"{job.code.archive}#{UNPACKED}",
        "spark.pyspark.python": PYTHON,
        **{f"{driver_prefix}{name}": value for name, value in driver.items()},
        **{f"spark.executorEnv.{name}": value for name, value in executor.items()},
        # After the stage's own, for a driver that shares one machine with all else.
        **_sizes(compute),
        **(_elastic(compute) if processes is None else _fixed(compute, processes)),
        **compute.conf,
        # Spark refuses a barrier stage under dynamic allocation (SPARK-24942), whatever the file says.
        **({} if processes is None else {DYNAMIC: "false"}),
    }


def _sizes(compute: ComputeSpec) -> dict[str, str]:
    """The networks live in Python workers, beside the JVM: an executor's JVM takes a quarter of its memory.
    The driver's JVM takes half, beside a process that holds the classifier's training."""
    cores, memory = str(compute.executor_cores), compute.executor_memory_gigabytes
    executor, driver = max(1, memory // 4), max(1, memory // 2)
    return {
        "spark.executor.cores": cores,
        "spark.executor.memory": f"{executor}g",
        "spark.executor.memoryOverhead": f"{memory - executor}g",
        "spark.driver.cores": cores,
        "spark.driver.memory": f"{driver}g",
        "spark.driver.memoryOverhead": f"{memory - driver}g",
    }


def _elastic(compute: ComputeSpec) -> dict[str, str]:
    """Executors come when there is work, and go when they are idle."""
    return {
        DYNAMIC: "true",
        "spark.dynamicAllocation.maxExecutors": str(compute.executors),
        # Stages deal their work out before the executors have come.
        "spark.default.parallelism": str(compute.executors * compute.executor_cores),
    }


def _fixed(compute: ComputeSpec, processes: int) -> dict[str, str]:
    """As many executors as the processes of a barrier stage need, from the start to the end."""
    executors = compute.barrier_executors(processes)
    return {
        "spark.executor.instances": str(executors),
        "spark.default.parallelism": str(executors * compute.executor_cores),
    }


def _step(job: Job) -> dict[str, Any]:
    settings = spark_settings(job, "spark.yarn.appMasterEnv.")
    told = [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
    command = ["spark-submit", "--deploy-mode", "cluster", *told, job.code.program, *job.arguments]
    return {
        "Name": job.name,
        "ActionOnFailure": "TERMINATE_CLUSTER",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": command},
    }


def _action(name: str, script: dict[str, Any]) -> dict[str, Any]:
    return {"Name": name, "ScriptBootstrapAction": script}


def needed(connection: str, found: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """What a connection's extra holds; ConfigError where one of these keys is missing."""
    missing = [key for key in keys if not found.get(key)]
    if missing:
        raise ConfigError(
            f"Airflow's connection {connection!r} lacks {' and '.join(missing)} in its extra; docs/emr.md "
            "shows what belongs there."
        )
    return found
