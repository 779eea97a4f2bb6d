"""The worker's side of featurizing: made ahead, in order, to the end, and errors where they are taken."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest

from sightline.backbones.worker import ahead, feature_batch
from sightline.schemas import FEATURES

DEADLINE_SECONDS = 60


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_items_come_in_order_and_one_is_made_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(6):
            made.append(number)
            yield number

    taken = ahead(items())
    assert next(taken) == 0
    wait_until(lambda: len(made) >= 3)  # one waits to be taken, one to be handed out
    time.sleep(0.02)
    assert made == [0, 1, 2]
    assert list(taken) == [1, 2, 3, 4, 5]


def test_an_error_is_raised_where_the_items_are_taken() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("a broken picture")

    taken = ahead(items())
    assert next(taken) == 1
    with pytest.raises(ValueError, match="a broken picture"):
        next(taken)


def test_who_leaves_early_leaves_no_thread() -> None:
    before = threading.active_count()
    taken = ahead(iter(range(1000)))
    assert next(taken) == 0
    taken.close()  # type: ignore[attr-defined]
    wait_until(lambda: threading.active_count() == before)
    assert list(ahead(iter([]))) == []


def test_a_feature_batch_has_a_row_for_each_embedding() -> None:
    embeddings = np.arange(6, dtype=np.float32).reshape(2, 3)
    batch = feature_batch(pa.array(["a", "b"]), "net", embeddings)
    assert batch.schema == FEATURES
    rows = batch.to_pylist()
    assert [row["embedding"] for row in rows] == embeddings.tolist()
    assert [(row["image_id"], row["backbone_id"]) for row in rows] == [("a", "net"), ("b", "net")]


HOLDING = """
import sys
from sightline.backbones import worker
with worker.card(0) as device:
    print(device, flush=True)
    sys.stdin.readline()
"""


def test_a_card_is_held_by_one_process_at_a_time() -> None:
    """Also after a process that held it was killed."""
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", HOLDING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    )
    with first, second:
        told: list[tuple[subprocess.Popen[str], str]] = []
        for one in (first, second):
            threading.Thread(
                target=lambda one=one: told.append((one, one.stdout.readline()))  # type: ignore[misc]
            ).start()
        wait_until(lambda: len(told) == 1)
        time.sleep(0.2)
        assert len(told) == 1
        told[0][0].kill()
        wait_until(lambda: len(told) == 2)
        assert {text for _, text in told} == {"cuda:0\n"}
        told[1][0].kill()
