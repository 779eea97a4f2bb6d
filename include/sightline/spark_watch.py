"""A job whose executors are gone for good ends, instead of waiting for others that never come.

A standalone master that starts anew without a memory of its own (spark.deploy.recoveryMode) ends the
executors of every driver that it does not know, and no driver registers twice: Spark would wait for ever,
without an error. Airflow's next try begins with a new driver, and goes on after the last commit.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sightline.errors import ClusterError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOOK_SECONDS = 5.0
PATIENCE_SECONDS = 120.0  # a worker that starts anew brings its executors in half a minute


@dataclass
class Watch:
    """How long a driver that has had executors has been without any."""

    count: Callable[[], int]
    give_up: Callable[[], None]
    patience_seconds: float = PATIENCE_SECONDS
    lost: bool = False
    _seen_at: float | None = None  # before the first executor: a full cluster has lost none

    def look(self, now: float) -> None:
        """Look once, at so many seconds of any clock; where they are lost, all jobs are given up."""
        if self.count():
            self._seen_at = now
        elif self._seen_at is not None and now - self._seen_at > self.patience_seconds:
            self.lost = True
            self.give_up()


@contextmanager
def watching(session: "SparkSession") -> Iterator[None]:
    """Watch the executors of a standalone master within the block; ClusterError where they are lost."""
    context = session.sparkContext
    if not (context.master or "").startswith("spark://"):
        yield
        return
    status = context._jsc.sc()
    watch = Watch(lambda: status.getExecutorMemoryStatus().size() - 1, context.cancelAllJobs)
    ended = threading.Event()
    watcher = threading.Thread(target=_look_on, args=(watch, ended), daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if watch.lost:
            raise ClusterError(
                f"All executors of {context.master} were lost, and none came back within "
                f"{PATIENCE_SECONDS:.0f} s: has its master started anew without spark.deploy.recoveryMode?"
            ) from error
        raise
    finally:
        ended.set()
        watcher.join()


def _look_on(watch: Watch, ended: threading.Event) -> None:
    while not ended.wait(LOOK_SECONDS):
        watch.look(time.monotonic())
