"""Fine-tuning on EMR uses a barrier stage: Spark itself accepts the settings that its job is given."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sightline import emr
from sightline.config import DatasetSpec
from sightline.errors import ConfigError
from sightline.shipping import Shipped
from tests.conftest import write_dataset

PREFIX = "spark.emr-serverless.driverEnv."
SECONDS = 240
DATASET = """
source: {{type: digits}}
fine_tune: {{processes: {processes}, batch_size: 24}}
compute: {{where: emr_serverless, executors: 2, executor_cores: 2, executor_memory_gigabytes: 2{more}}}
"""
# How long a barrier stage waits for slots, instead of 40 times 15 seconds.
CHECKS = "spark.scheduler.barrier.maxConcurrentTasksCheck"
SOON = {f"{CHECKS}.interval": "2s", f"{CHECKS}.maxFailures": "20"}
# Each list of settings gets a Spark cluster of its own size, and a job whose tasks must all start together.
PROGRAM = """
import json, sys
from pyspark import BarrierTaskContext, SparkConf, SparkContext

def meet(numbers):
    context = BarrierTaskContext.get()
    context.barrier()
    yield sum(numbers), len(context.getTaskInfos())

processes, *asked = json.loads(sys.argv[1])
for settings in asked:
    executors, cores = settings.get("spark.executor.instances", "1"), settings["spark.executor.cores"]
    master = f"local-cluster[{executors},{cores},1024]"
    with SparkContext(master, "barrier", conf=SparkConf().setAll(settings.items())) as context:
        try:
            numbers = context.parallelize(range(processes), processes)
            print("met", json.dumps(numbers.barrier().mapPartitions(meet).collect()))
        except Exception as error:
            print("refused", " ".join(str(error).split()))
"""


def tune_spec(places: Path, processes: int, more: str = "") -> DatasetSpec:
    return write_dataset(places, "digits", DATASET.format(processes=processes, more=more))


def settings_of(spec: DatasetSpec, stage: str) -> dict[str, str]:
    """Spark's settings of a stage's job."""
    code = Shipped("s3://b/code.zip", f"s3://b/{stage}.py")
    processes = emr.barrier_processes(spec, stage)
    job = emr.Job("name", spec.compute, code, [spec.name], {}, {}, processes)
    return emr.spark_settings(job, PREFIX)


def on_this_machine(settings: dict[str, str]) -> dict[str, str]:
    """The same settings without what names EMR's machines: the archive, and where their Python is."""
    here = {name: value.replace(emr.PYTHON, sys.executable) for name, value in settings.items()}
    del here["spark.archives"]
    here["spark.ui.enabled"] = "false"
    return {**SOON, **here}


def run_barrier_jobs(processes: int, *settings: dict[str, str]) -> list[str]:
    """What became of a barrier job under each of these settings."""
    told = json.dumps([processes, *map(on_this_machine, settings)])
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, told], env=environment, capture_output=True, text=True,
        check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [line for line in done.stdout.splitlines() if line.startswith(("met", "refused"))]


@pytest.mark.slow
def test_spark_runs_a_barrier_stage_with_the_settings_of_fine_tuning(own_places: Path) -> None:
    spec = tune_spec(own_places, processes=4)
    elastic, fixed = settings_of(spec, "featurize"), settings_of(spec, "fine_tune")
    one_executor = {**fixed, "spark.executor.instances": "1", f"{CHECKS}.maxFailures": "4"}
    refused, met, too_few = run_barrier_jobs(4, elastic, fixed, one_executor)
    assert "[SPARK-24942]" in refused
    assert json.loads(met.removeprefix("met ")) == [[0, 4], [1, 4], [2, 4], [3, 4]]
    assert "SPARK-24819" in too_few  # fewer slots than tasks


@pytest.mark.parametrize(
    ("processes", "more", "executors"),
    [(1, "", "1"), (2, "", "2"), (4, "", "2"), (3, ", conf: {spark.executor.instances: '3'}", "3")],
)
def test_each_process_has_a_slot(
    own_places: Path, processes: int, more: str, executors: str
) -> None:
    settings = settings_of(tune_spec(own_places, processes, more), "fine_tune")
    assert settings["spark.executor.instances"] == executors
    slots = int(executors) * int(settings["spark.executor.cores"])
    assert slots >= processes
    assert settings[emr.DYNAMIC] == "false"


def test_dynamic_allocation_stays_off_in_a_barrier_stage_whatever_the_file_says(
    own_places: Path,
) -> None:
    spec = tune_spec(own_places, 2, ", conf: {spark.dynamicAllocation.enabled: 'true'}")
    assert settings_of(spec, "fine_tune")[emr.DYNAMIC] == "false"
    assert settings_of(spec, "featurize")[emr.DYNAMIC] == "true"


@pytest.mark.parametrize(("processes", "more"), [(6, ""), (3, ", conf: {spark.task.cpus: '2'}")])
def test_processes_without_slots_are_refused(own_places: Path, processes: int, more: str) -> None:
    slots = "run only [24] tasks at the same time; raise compute.executors"
    with pytest.raises(ConfigError, match=f"fine_tune.processes is {processes}, but .* {slots}"):
        tune_spec(own_places, processes, more)
