"""What each stage of the pipeline needs at a size: hours, and the memory of the machine that holds most.

The formulas are those of the code: how many chunks it makes, how many it works on at once, what it holds.
A stage on executors ends when its cores have done the work and its commits are through, one after another:
whichever is later.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from sightline.planning.machines import Cluster
from sightline.planning.measured import PCA_DIM, Measured

HOUR = 3_600.0
PROCESS_BYTES = 400 * 2**20  # of Python with its packages, before it holds anything
DRIVER_BYTES = 2 * 2**30  # of a driver's JVM, and of Python beside it
PART_BYTES = 32 * 2**20  # of encoded images for a Spark task, as backbones.worker deals them
MOST_CHUNKS = 4_000  # of a fetch, as ingestion makes them
BUCKETS = 2**22  # of the largest index of near-duplicates: beyond as many images, each has several


@dataclass(frozen=True)
class Size:
    """A dataset's size."""

    images: float
    image_bytes: float
    dim: int
    width: int  # of what the head is trained on: components, or dim
    images_per_commit: int
    backbone: str

    @property
    def chunks(self) -> float:
        """Of a fetch, and files of the images table."""
        return max(1.0, min(MOST_CHUNKS, self.images / self.images_per_commit))


@dataclass(frozen=True)
class Need:
    """What a stage needs."""

    hours: float
    memory_bytes: float


@dataclass(frozen=True)
class Course:
    """How the chunks of a stage are worked off."""

    work_seconds: float  # of one core, all chunks together
    tasks_at_once: float  # that the stage deals out
    cores: int
    commit_seconds: float  # of all commits, one after another

    @property
    def seconds(self) -> float:
        """Until the last commit."""
        return max(self.work_seconds / min(self.tasks_at_once, self.cores), self.commit_seconds)


def list_images(size: Size, cluster: Cluster, measured: Measured) -> Need:
    """One process streams the source's list into the manifest."""
    return Need(size.images / measured.listing / HOUR, PROCESS_BYTES)


def fetch_images(size: Size, cluster: Cluster, measured: Measured) -> Need:
    """A chunk is one Spark task; the source's own speed is not in it."""
    return Need(fetch_course(size, cluster, measured).seconds / HOUR, DRIVER_BYTES)


def fetch_course(size: Size, cluster: Cluster, measured: Measured) -> Course:
    """The chunks of a fetch."""
    return Course(
        size.images / measured.fetching,
        chunks_at_once(cluster),
        cluster.cores,
        commit_seconds(size, measured),
    )


def inspect_images(size: Size, cluster: Cluster, measured: Measured) -> Need:
    """One process looks for near-duplicates of each image: linear while a bucket of its index holds one."""
    seconds = measured.near_duplicate_seconds.at(size.images) * max(1.0, size.images / BUCKETS)
    return Need(seconds / HOUR, measured.near_duplicate_bytes.at(size.images))


def featurize(size: Size, cluster: Cluster, measured: Measured) -> Need:
    """A chunk is a file of the images table, and as many Spark tasks as it has parts."""
    workers = cluster.instance.cores * measured.worker_bytes
    return Need(featurize_course(size, cluster, measured).seconds / HOUR, workers)


def featurize_course(size: Size, cluster: Cluster, measured: Measured) -> Course:
    """The chunks of a featurizing."""
    file_bytes = size.images / size.chunks * size.image_bytes
    return Course(
        size.images / measured.featurizing[size.backbone],
        chunks_at_once(cluster) * math.ceil(file_bytes / PART_BYTES),
        cluster.cores,
        commit_seconds(size, measured),
    )


def split(size: Size, cluster: Cluster, measured: Measured) -> Need:
    """One process finds the groups of near-duplicates among all that have no split yet."""
    seconds = measured.split_seconds.at(size.images) * max(1.0, size.images / BUCKETS)
    return Need(seconds / HOUR, measured.split_bytes.at(size.images))


def reduce(size: Size, cluster: Cluster, measured: Measured) -> Need:
    """Workers sum products of dim x dim, once to fit; the driver holds three such matrices."""
    cost = (size.dim / PCA_DIM) ** 2
    seconds = size.images * cost / measured.pca / cluster.cores
    return Need(seconds / HOUR, DRIVER_BYTES + 3 * size.dim**2 * 8)


def train(size: Size, cluster: Cluster, measured: Measured) -> Need:
    """Spark keeps every row in the executors' memory, a quarter of which is the JVM's. Its hours depend on
    the head and its grid, and are not planned."""
    rows = size.images * (size.width * 8 + 64)
    return Need(0.0, 4 * rows / cluster.executors)


Stage = Callable[[Size, Cluster, Measured], Need]
PARTS: dict[str, Stage] = {
    "list_images": list_images,
    "fetch_images": fetch_images,
    "inspect_images": inspect_images,
    "featurize": featurize,
    "split": split,
    "reduce": reduce,
    "train": train,
}
ON_EXECUTORS = ("fetch_images", "featurize", "reduce", "train")


def useful_executors(size: Size, cluster: Cluster, measured: Measured) -> int:
    """How many executors of this kind make a stage faster: beyond, cores wait for chunks or for commits."""
    many = replace(cluster, executors=MOST_CHUNKS)
    courses = [stage(size, many, measured) for stage in (fetch_course, featurize_course)]
    cores = max(min(one.tasks_at_once, one.work_seconds / one.commit_seconds) for one in courses)
    return math.ceil(cores / cluster.instance.cores)


def chunks_at_once(cluster: Cluster) -> int:
    """As spark.run_chunks works on."""
    from sightline.spark import most_chunks_at_once

    return most_chunks_at_once(cluster.cores)


def commit_seconds(size: Size, measured: Measured) -> float:
    """Of all commits: each looks through the keys that the table holds by then, half of them on average."""
    return size.chunks * measured.commit.at(size.images / 2, size.chunks / 2)
