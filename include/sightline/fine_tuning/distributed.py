"""A training in processes of its own, started by Spark's TorchDistributor: on this machine, or one or more
on each executor of a cluster; over NCCL where there are GPUs, over Gloo elsewhere.
"""

import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from sightline import memory
from sightline.errors import ResourceError
from sightline.fine_tuning import loop
from sightline.fine_tuning.checkpoints import Epoch, read_checkpoint
from sightline.fine_tuning.loop import Job
from sightline.fine_tuning.reading import Place

if TYPE_CHECKING:
    from pyspark.ml.torch.distributor import TorchDistributor
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


def train(session: "SparkSession", job: Job) -> list[Epoch]:
    """Run the job in as many processes as it asks for, and return its history."""
    is_local = str(session.sparkContext.master).startswith("local")
    if is_local and job.spec.processes == 1 and job.threads is None:
        return loop.run(job, device="cuda" if torch.cuda.is_available() else "cpu")
    from pyspark.ml.torch.distributor import TorchDistributor

    use_gpu = torch.cuda.is_available() if is_local else _has_gpus(session)
    distributor = TorchDistributor(job.spec.processes, local_mode=is_local, use_gpu=use_gpu)
    start(distributor, run_process, job)
    come = read_checkpoint(job.checkpoint_url)
    assert come is not None  # the first process wrote it after each epoch
    return come.history


def start(distributor: "TorchDistributor", function: Callable[..., Any], *arguments: Any) -> None:
    """Run a function in the distributor's processes; ResourceError if the kernel killed one for memory."""
    kills = memory.oom_kills()
    try:
        distributor.run(function, *arguments)
    except RuntimeError as error:
        if memory.oom_kills() == kills:
            raise
        raise ResourceError(
            f"fine_tune: a training process was killed for memory, of which this machine has "
            f"{memory.shown(memory.total_bytes())}; lower limits.memory, backbone.image_size or "
            "fine_tune.processes, choose a smaller backbone, or use a machine with more memory."
        ) from error


def run_process(job: Job) -> None:
    """What each process runs; torchrun says in the environment which one it is."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    is_cuda = torch.cuda.is_available()
    device = f"cuda:{os.environ['LOCAL_RANK']}" if is_cuda else "cpu"
    if not is_cuda:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(job.threads or max(1, len(os.sched_getaffinity(0)) // here))
    torch.distributed.init_process_group("nccl" if is_cuda else "gloo")
    try:
        loop.run(job, Place(rank, processes, _processes_here(processes)), device)
    finally:
        torch.distributed.destroy_process_group()


def _processes_here(processes: int) -> int:
    """How many of the training's processes run on this machine: torchrun knows only those that it started."""
    hosts: list[str | None] = [None] * processes
    torch.distributed.all_gather_object(hosts, socket.gethostname())
    return hosts.count(socket.gethostname())


def _has_gpus(session: "SparkSession") -> bool:
    """Whether Spark hands out GPUs to its tasks."""
    return session.conf.get("spark.task.resource.gpu.amount", "") not in ("", None)
