"""Spark's Python daemon with the ingest's worker code already imported, as `worker_daemon` for featurizing.

Set as spark.python.daemon.module by the fetch_images task.
"""

import gc

from pyspark.daemon import manager  # noqa: TID253

import sightline.sources.fetching  # noqa: F401  (imported for the workers)

if __name__ == "__main__":
    gc.freeze()
    manager()
