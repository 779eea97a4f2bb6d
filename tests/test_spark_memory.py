"""Failures for memory, recognised from what Spark, YARN, Kubernetes and EMR print."""

import subprocess
import sys

import pytest

from sightline.spark_memory import Held, explain_emr_failure, explain_failure, watching
from tests.test_worker import wait_until

ABORTED = (
    "org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 0.0 failed 4 times, "
    "most recent failure: Lost task 0.3 in stage 0.0 (TID 3) (10.0.0.7 executor 4): ExecutorLostFailure "
    "(executor 4 exited caused by one of the running tasks) Reason: "
)
KILLS = {
    "YARN": "Container killed by YARN for exceeding physical memory limits. 5.6 GB of 5.5 GB physical "
    "memory used. Consider boosting spark.executor.memoryOverhead.",
    "older YARN": "Container killed by YARN for exceeding memory limits. 5.6 GB of 5.5 GB used.",
    "a killed container": "Container from a bad node: container_1645539745894_0001_01_000072 on host: ip-172."
    " Exit status: 137. Diagnostics: Container killed on request. Exit code is 137",
    "Kubernetes": "\nThe executor with id 3 exited with exit code 137(SIGKILL, possible container OOM).\n",
    "standalone": "Command exited with code 137",
}
SERVERLESS = (
    "Job failed. ExitCode: 137. Last few exceptions: Worker has been killed as memory usage exceeded "
    "configured memory size, consider increasing memory size..."
)
HEAP = "py4j.protocol.Py4JJavaError: ...\n: java.lang.OutOfMemoryError: Java heap space"


@pytest.mark.parametrize("reason", KILLS.values(), ids=KILLS)
def test_an_executor_whose_kill_failed_the_job(reason: str) -> None:
    sentence = explain_failure("fine_tune", ABORTED + reason, Held(), "1g")
    assert sentence is not None
    assert sentence.startswith("fine_tune failed because an executor was killed for memory; lower ")
    assert "limits.memory" in sentence
    assert "spark.executor.memoryOverhead" in sentence


def test_an_executor_that_spark_has_replaced_is_not_the_reason() -> None:
    lost = "26/11/30 WARN TaskSchedulerImpl: Lost executor 0 on 10.0.0.7: Command exited with code 137\n"
    aborted = ABORTED.partition("Lost task")[0]
    text = f"{lost}{aborted}Lost task 0.3 in stage 0.0: java.io.IOException: no such file"
    assert explain_failure("featurize", text, Held(), "1g") is None


def test_a_killed_process_is_no_matter_of_memory_unless_the_kernel_says_so() -> None:
    text = "Cannot execute: spark-submit ... Error code is: -9."
    assert explain_failure("featurize", text, Held(), "1g") is None
    sentence = explain_failure("featurize", text, Held(2**30, kills=1), "1g")
    assert sentence is not None
    assert sentence.startswith("featurize was killed for memory (its JVM): its processes held 1.0")
    other = "ValueError: image 17 has no pixels. Error code is: 1."
    assert explain_failure("featurize", other, Held(2**30, kills=1), "1g") is None


def test_emr_is_told_in_its_own_settings() -> None:
    for text in (SERVERLESS, ABORTED + KILLS["YARN"]):
        assert explain_emr_failure("featurize", text, 16) == (
            "featurize failed because its driver or an executor was killed for memory; set "
            "compute.executor_memory_gigabytes higher (now 16), or lower backbone.image_size, choose a "
            "smaller backbone."
        )
    assert "Java heap" in (explain_emr_failure("train", HEAP, 16) or "")
    assert explain_emr_failure("train", "ExitCode: 1. ValueError", 16) is None


def test_memory_that_cannot_be_had_is_told_apart_from_a_name_that_holds_the_word() -> None:
    numpy = "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9.1 GiB"
    torch = (
        "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
    )
    for text in (numpy, torch, "MemoryError", "torch.OutOfMemoryError: CUDA out of memory."):
        assert "ran out of memory" in (explain_failure("train", text, Held(), "1g") or "")
    assert explain_failure("train", "ValueError: NoMemoryErrorHere", Held(), "1g") is None


def test_the_peak_of_a_process_and_of_its_children_is_kept() -> None:
    held_bytes = 200 * 2**20
    child = f"import sys; held = b'1' * {held_bytes}; print('ready', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with (
        subprocess.Popen(
            [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
        watching(lambda: process.pid) as held,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: held.peak_bytes >= held_bytes)
        process.communicate()
    assert held_bytes <= held.peak_bytes < 2 * held_bytes
    assert held.kills == 0
