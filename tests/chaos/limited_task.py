"""A Spark task in a control group: `python -m tests.chaos.limited_task GROUP WAY`.

Runs `hungry_job` through the operator and prints as JSON how the task failed.
"""

import json
import os
import sys
from pathlib import Path

from sightline.operators import SparkStageOperator


def main() -> None:
    """Move into the group, if one is given, run the task, and tell."""
    group, way = sys.argv[1:3]
    if group:
        Path(group, "cgroup.procs").write_text(str(os.getpid()))
    task = SparkStageOperator(
        dataset="photos",
        partition="all",
        stage="featurize",
        doc_md="",
        more_args=[way],
        conf={"spark.driver.memory": "512m"},
    )
    task.application = str(Path(__file__).with_name("hungry_job.py"))
    try:
        task.execute({})
    except Exception as error:
        sys.stdout.write(json.dumps({"kind": type(error).__name__, "text": str(error)}))


if __name__ == "__main__":
    main()
