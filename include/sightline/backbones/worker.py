"""The worker's side of featurizing: row groups of the images table in, batches of embeddings out.

A worker reads its encoded images itself, so that they do not pass through the JVM. A thread decodes the
next batch while this one is inferred. Spark's tasks fill the cores, so torch takes one thread; a card
serves one task at a time, whose threads then decode for it on all cores.
"""

import fcntl
import gc
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from sightline import backbones, images, parquet
from sightline.backbones.inference import Network
from sightline.backbones.preprocessing import Preprocessing
from sightline.batches import joined, rows_with, to_lists
from sightline.config import BackboneSpec
from sightline.schemas import FEATURES
from sightline.shared_files import SharedFile, local_path

if TYPE_CHECKING:
    import torch
    from pyspark.accumulators import Accumulator

Item = TypeVar("Item")
Made = TypeVar("Made")
COLUMNS = ("image_id", "content", "rotation")
ROWS_AT_A_TIME = 32
PART_BYTES = 32 * 2**20  # of encoded images for a Spark task


@dataclass(frozen=True)
class Work:
    """What a worker must know of the job."""

    spec: BackboneSpec
    backbone_id: str
    precision: str
    weights: SharedFile
    is_long: bool  # long enough for compiling to pay
    done: "Accumulator[int]"  # images, for the progress


@dataclass(frozen=True)
class Part:
    """Row groups of a file of the images table: what one Spark task featurizes."""

    url: str
    row_groups: tuple[int, ...]
    missing: frozenset[str] | None = None  # image_ids that are wanted; None: all


def parts_of(url: str, missing: frozenset[str] | None = None) -> list[Part]:
    """A file's row groups, some together: several parts a core, so that none waits for the last."""
    with parquet.opened(url) as file:
        held = file.metadata
        sizes = [held.row_group(number).total_byte_size for number in range(held.num_row_groups)]
    parts, some, size_bytes = list[Part](), list[int](), 0
    for number, size in enumerate(sizes):
        if some and size_bytes + size > PART_BYTES:
            parts.append(Part(url, tuple(some), missing))
            some, size_bytes = [], 0
        some.append(number)
        size_bytes += size
    return [*parts, Part(url, tuple(some), missing)]


def embed_parts(
    work: Work, parts: list[Part]
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The function for Spark: numbers of parts in the column `id` in, batches of FEATURES out."""

    def embed(numbers: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        ours = [parts[number] for batch in numbers for number in batch["id"].to_pylist()]
        with borrowed(work.backbone_id, partial(_build, work)) as network:
            rows = (batch for part in ours for batch in read_part(part))
            prepare = partial(prepare_picture, work.spec, network.preprocessing)
            for image_ids, pictures in ahead(prepared(rows, network, prepare)):
                yield feature_batch(image_ids, work.backbone_id, network.embed(pictures))
                work.done.add(len(pictures))

    return embed


def read_part(part: Part) -> Iterator[pa.RecordBatch]:
    """Small batches of COLUMNS; in memory is a row group at a time, encoded."""
    with parquet.opened(part.url, pre_buffer=False) as file:
        batches = file.iter_batches(
            ROWS_AT_A_TIME, part.row_groups, list(COLUMNS), use_threads=False
        )
        for batch in batches:
            if part.missing is not None:
                batch = rows_with(batch, "image_id", part.missing)
            yield batch


def prepared(
    batches: Iterable[pa.RecordBatch], network: Network, prepare: Callable[[bytes, int], Made]
) -> Iterator[tuple[pa.Array, list[Made]]]:
    """The ids of each batch, and what `prepare` makes of each image and its declared rotation."""
    threads = 1 if network.device == "cpu" else len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        for batch in joined(batches, network.batch_size):
            rows = batch["content"].to_pylist(), batch["rotation"].to_pylist()
            made = pool.map(prepare, *rows) if threads > 1 else map(prepare, *rows)
            yield batch["image_id"], list(made)


def prepare_picture(
    spec: BackboneSpec, preprocessing: Preprocessing, content: bytes, rotation: int
) -> "torch.Tensor":
    """An encoded image as the network takes it."""
    least_side = preprocessing.least_side if spec.decode == "scaled" else None
    return preprocessing.prepare(images.decode_pixels(content, rotation, least_side))


def feature_batch(
    image_ids: pa.Array, backbone_id: str, embeddings: np.ndarray[Any, Any]
) -> pa.RecordBatch:
    """Rows of the features table."""
    ids = pa.array([backbone_id] * len(embeddings), pa.string())
    return pa.RecordBatch.from_arrays([image_ids, ids, to_lists(embeddings)], schema=FEATURES)


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each made by a thread while the one before is worked on."""
    made: Queue[tuple[str, Any]] = Queue(maxsize=1)
    is_left = Event()  # by who takes the items

    def make() -> None:
        try:
            for item in items:
                made.put(("item", item))
                if is_left.is_set():
                    return
            made.put(("end", None))
        except BaseException as error:  # raised where the items are taken
            made.put(("error", error))

    thread = Thread(target=make, daemon=True)
    thread.start()
    try:
        while (one := made.get())[0] == "item":
            yield one[1]
        if one[0] == "error":
            raise one[1]
    finally:
        is_left.set()
        while thread.is_alive():  # it may wait to hand out one more
            if not made.empty():
                made.get()
            thread.join(0.01)


_LOADED: dict[str, Network] = {}  # a worker process serves many Spark tasks of one job


@contextmanager
def borrowed(identity: str, build: Callable[[str], Network]) -> Iterator[Network]:
    """The network that `build` makes for a device, once a worker; on a card it stays no longer than the
    task that holds the card.
    """
    import torch

    torch.set_num_threads(1)
    if torch.cuda.is_available():
        with card(_card_number()) as device:
            network = build(device)
            yield network
            network.release()
        return
    if identity not in _LOADED:
        _LOADED.clear()
        _LOADED[identity] = build("cpu")
        gc.freeze()  # Spark lets a worker collect garbage after each task
    yield _LOADED[identity]


def _build(work: Work, device: str) -> Network:
    with local_path(work.weights) as path:
        module, preprocessing = backbones.map_backbone(work.spec, work.precision, path)
    compiles = work.is_long and device == "cpu" and work.precision == "bf16"
    return Network(module, preprocessing, work.precision, device, compiles)


@contextmanager
def card(number: int) -> Iterator[str]:
    """A card of this machine for ourselves alone; the lock dies with its process."""
    lock = Path(tempfile.gettempdir()) / f"sightline-card-{number}-{os.getuid()}.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield f"cuda:{number}"


def _card_number() -> int:
    """The card that Spark gave to the task, else one by the task's number."""
    import torch
    from pyspark import TaskContext

    task = TaskContext.get()
    given = task.resources().get("gpu") if task else None
    if given:
        return int(given.addresses[0])
    return (task.partitionId() if task else 0) % torch.cuda.device_count()
