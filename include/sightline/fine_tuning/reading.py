"""Images of a training set as they stream into a process: encoded bytes in, prepared pictures out.

An epoch takes the row groups in an order of its own and mixes their rows in a pool, so that memory is
bounded by the pool whatever the size of the dataset. The order follows from seed and epoch alone.
"""

import itertools
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from sightline import images, parquet
from sightline.fine_tuning.augmentation import Prepare
from sightline.fine_tuning.training_set import RowGroup, TrainingSet, read_list

POOL_BYTES = 256 * 2**20  # of encoded images that are mixed, in each process
WAITING_BYTES = (
    128 * 2**20
)  # of prepared batches that wait for the training, if that is more than one
GROUPS_A_PROCESS = 8  # row groups; with fewer, processes share out rows and each reads all groups
Encoded = tuple[bytes, int, int]  # content, rotation in degrees, label
Pictures = IterableDataset[tuple[torch.Tensor, int]]
Batch = tuple[torch.Tensor, torch.Tensor]  # pictures (n, 3, h, w), labels (n,)


@dataclass(frozen=True)
class Place:
    """Which of how many processes this one is."""

    rank: int = 0
    processes: int = 1
    processes_here: int = 1  # that share this machine's memory


@dataclass(frozen=True)
class Order:
    """What makes an epoch's order, and its random pictures."""

    seed: int
    epoch: int


class TrainImages(Pictures):
    """`count` train images of one epoch for one process, augmented; begins anew where they run out."""

    def __init__(
        self,
        training_set: TrainingSet,
        place: Place,
        order: Order,
        count: int,
        make_prepare: Callable[[int], Prepare],
    ) -> None:
        self.training_set, self.place, self.order = training_set, place, order
        self.count, self.make_prepare = count, make_prepare

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        seed = hash((self.order.seed, self.order.epoch, self.place.rank)) % 2**32
        torch.manual_seed(seed)
        prepare = self.make_prepare(seed)
        encoded = itertools.islice(self._endless(), self.count)
        yield from prepared(encoded, prepare)

    def _endless(self) -> Iterator[Encoded]:
        for turn in itertools.count():
            mixed = random.Random(f"{self.order.seed}/{self.order.epoch}/{turn}")
            yield from train_order(self.training_set.row_groups, self.place, mixed)


class ValidationImages(Pictures):
    """The validation images of one process, each once among all processes."""

    def __init__(self, training_set: TrainingSet, place: Place, prepare: Prepare) -> None:
        self.training_set, self.place, self.prepare = training_set, place, prepare

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        groups = [one for one in self.training_set.row_groups if one.validation_images]
        rows = (row for group in groups for row in read_rows(group, validation=True))
        ours = itertools.islice(rows, self.place.rank, None, self.place.processes)
        yield from prepared(ours, self.prepare)


def batches(
    dataset: Pictures,
    batch_size: int,
    workers: int,
    picture_bytes: int = 1,
) -> Iterable[Batch]:
    """Batches of a dataset, prepared by processes beside this one, whose random state stays its own."""
    ahead = WAITING_BYTES // (batch_size * picture_bytes)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        prefetch_factor=min(max(ahead, 1), 2) if workers else None,
        multiprocessing_context=_start_method() if workers else None,
        worker_init_fn=_end_with_parent,
    )
    for pictures, labels in loader:
        yield torch.from_numpy(pictures), torch.from_numpy(labels)


def _start_method() -> str:
    """Workers are forked from a small server process, whose imports take about three seconds once.

    Forked from the training process itself, a worker can deadlock on a lock that a thread of Gloo or OpenMP
    held at the fork, and keeps all memory that the process frees later.
    """
    multiprocessing.set_forkserver_preload(
        ["__main__", __name__, "sightline.fine_tuning.augmentation"]
    )
    return "forkserver"


def _end_with_parent(_: int) -> None:
    """Let a worker end when its parent is gone: killed in the middle of a batch, it would wait for ever to
    hand it over.
    """
    parent, server = multiprocessing.parent_process(), os.getppid()
    assert parent is not None  # this runs in workers alone

    def watch() -> None:
        while parent.is_alive() and os.getppid() == server:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def prepared(encoded: Iterable[Encoded], prepare: Prepare) -> Iterator[tuple[torch.Tensor, int]]:
    """Pictures and labels of encoded images."""
    for content, rotation, label in encoded:
        yield prepare(images.decode_pixels(content, rotation)), label


def train_order(groups: list[RowGroup], place: Place, mixed: random.Random) -> Iterator[Encoded]:
    """A process's share of the train images, once each, in an order that `mixed` decides."""
    groups = [group for group in groups if group.train_images]
    mixed.shuffle(groups)
    shares_groups = len(groups) >= GROUPS_A_PROCESS * place.processes
    if shares_groups:
        groups = deal_groups(groups, place.processes)[place.rank]
    rows = (row for group in groups for row in read_rows(group, validation=False))
    shuffled = pooled(rows, mixed)
    if shares_groups:
        return shuffled
    return itertools.islice(shuffled, place.rank, None, place.processes)


def deal_groups(groups: list[RowGroup], processes: int) -> list[list[RowGroup]]:
    """Row groups for each process, in their order, so that all have about as many train images.

    The largest group goes first, each to the process with the fewest images so far. A process with fewer
    images than its share of the batches would read some twice in an epoch while others go unread.
    """
    loads, owners = [0] * processes, dict[int, int]()
    for place in sorted(range(len(groups)), key=lambda at: -groups[at].train_images):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += groups[place].train_images
    return [
        [group for place, group in enumerate(groups) if owners[place] == rank]
        for rank in range(processes)
    ]


def pooled(rows: Iterable[Encoded], mixed: random.Random) -> Iterator[Encoded]:
    """The rows, each drawn at random from a pool of bounded size."""
    pool: list[Encoded] = []
    size_bytes = 0
    for row in rows:
        pool.append(row)
        size_bytes += len(row[0])
        while size_bytes > POOL_BYTES:
            drawn = _draw(pool, mixed)
            size_bytes -= len(drawn[0])
            yield drawn
    while pool:
        yield _draw(pool, mixed)


def read_rows(group: RowGroup, *, validation: bool) -> Iterator[Encoded]:
    """The listed images of a row group, which is in memory meanwhile."""
    columns = ["content", "rotation"]
    with parquet.opened(group.url, pre_buffer=False) as file:
        held = file.read_row_group(group.number, columns=columns, use_threads=False)
    for row, label in read_list(group, validation=validation):
        yield held["content"][row].as_py(), held["rotation"][row].as_py(), label


def _draw(pool: list[Encoded], mixed: random.Random) -> Encoded:
    """Take one out; the last one fills its place."""
    place = mixed.randrange(len(pool))
    pool[place], pool[-1] = pool[-1], pool[place]
    return pool.pop()


def _collate(rows: list[tuple[torch.Tensor, int]]) -> tuple[Any, Any]:
    """Arrays, which pass through a pipe: a container's shared memory is often too small for tensors."""
    pictures = torch.stack([picture for picture, _ in rows]).contiguous().numpy()
    return pictures, np.array([label for _, label in rows], dtype=np.int64)
