"""Spark's settings for the jobs whose Python workers do the work: which daemon forks them, and how little
memory the JVM beside them needs.

Images pass through the JVM of a fetch, in batches. Featurizing sends it embeddings only: the weights are a
file that the workers map (shared_files). A smaller heap is full sooner, and then stays as it is, however
many images follow.
"""

FETCH_WORKERS = {
    "spark.python.daemon.module": "sightline.fetch_daemon",
    "spark.driver.memory": "768m",
}
TORCH_WORKERS = {
    "spark.python.daemon.module": "sightline.worker_daemon",
    "spark.driver.memory": "512m",
}
