"""When a driver gives up: it has had executors, and has been without any for too long."""

import pytest

from sightline.spark_watch import Watch


@pytest.mark.parametrize(
    ("executors", "given_up"),
    [
        ([0, 0, 0, 0, 0], 0),  # a full cluster: its turn will come
        ([2, 2, 2, 2, 2], 0),
        ([2, 0, 0, 1, 0], 0),  # a worker has started anew
        ([2, 0, 0, 0, 0], 1),
        ([1, 0, 0, 0, 0, 0, 0], 3),  # each job that begins without executors
    ],
)
def test_executors_that_are_gone_for_good_are_not_waited_for(
    executors: list[int], given_up: int
) -> None:
    left, calls = iter(executors), list[bool]()
    watch = Watch(lambda: next(left), lambda: calls.append(True), patience_seconds=30)
    for turn in range(len(executors)):
        watch.look(turn * 10.0)
    assert len(calls) == given_up
    assert watch.lost == bool(given_up)
