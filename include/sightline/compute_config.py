"""The `compute:` key of a dataset file: where its Spark jobs run, how large and for how long.

A mere name, `compute: emr_serverless`, takes the sizes as they come; SIGHTLINE_COMPUTE is for the dataset
files that say nothing. docs/emr.md tells what has to be there first.
"""

import os
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from sightline.source_config import Section

Where = Literal["spark", "emr_serverless", "emr"]


def default_where() -> Any:
    """What SIGHTLINE_COMPUTE says; checked as if it stood in the file."""
    return os.environ.get("SIGHTLINE_COMPUTE") or "spark"


class ComputeSpec(Section):
    """Where Spark's jobs run.

    where: `spark` is what Airflow's Spark connection names, a laptop or a cluster; `emr_serverless` an
    application of Amazon EMR Serverless; `emr` an EMR cluster that lives for one job.
    The sizes are those of EMR's executors; the driver has that of one executor.
    """

    where: Where = Field(default_factory=default_where, validate_default=True)
    executors: int = Field(4, ge=1, le=5_000)  # at most; EMR gives them back when they are idle
    executor_cores: Literal[1, 2, 4, 8, 16] = 4
    executor_memory_gigabytes: int = Field(16, ge=2, le=120)  # of JVM and Python workers together
    hours: float = Field(24, gt=0, le=240)  # the longest that a job may take before it is ended
    conf: dict[str, str] = {}  # more settings of Spark

    def barrier_executors(self, processes: int) -> int:
        """Executors of a barrier stage, whose number is fixed: one for each process, up to `executors`."""
        return int(self.conf.get("spark.executor.instances", min(processes, self.executors)))

    def barrier_slots(self, processes: int) -> int:
        """Tasks that these executors can run at the same time."""
        cores = int(self.conf.get("spark.executor.cores", self.executor_cores))
        cores_per_task = int(self.conf.get("spark.task.cpus", 1))
        return self.barrier_executors(processes) * (cores // cores_per_task)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"where": value} if isinstance(value, str) else value

    @field_validator("where", mode="before")
    @classmethod
    def _known(cls, where: Any) -> Any:
        if where not in get_args(Where):
            known = ", ".join(get_args(Where))
            raise ValueError(f"unknown place {where!r}; give one of {known}")
        return where
