"""Spark's Python daemon with torch already imported: workers are forked from it, so a core pays the
seconds of the import once instead of each worker, and the workers share its memory.

Set as spark.python.daemon.module by the featurize task.
"""

import torchvision  # noqa: F401, TID253  (imported for the workers)
from pyspark.daemon import manager  # noqa: TID253

if __name__ == "__main__":
    manager()
