"""The parts of the founding suite: dataset files that are the shipped ones, and a peak that counts right."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sightline.config import DatasetSpec
from tests.founding import DATASETS, pointed_here, shipped
from tests.memory_watch import MemoryWatch

MARK = "SIGHTLINE_MEMORY_WATCH_TEST"
HELD_MIB = 200
# Holds memory, shares it with a fork, and says so.
HOLDING = f"""
import os, sys
held = bytearray(b"x") * {HELD_MIB * 2**20}
os.fork()
print(flush=True)
sys.stdin.read()
"""
# Starts the program above in a session of its own, and ends before it.
LEAVING = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {HOLDING!r}], start_new_session=True)
"""


@pytest.mark.parametrize("name", DATASETS)
def test_a_founding_dataset_is_the_shipped_one_but_for_addresses_and_epochs(name: str) -> None:
    here = pointed_here(name)
    DatasetSpec.model_validate({"name": name, **here})
    before, after = flat(shipped(name)), flat(here)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    epochs = {key for key in after if key.startswith("fine_tune.") and key.endswith(".epochs")}
    assert {after[key] for key in epochs} <= {1}
    always = {"fetch.allow_addresses.0", "fine_tune.search.trials"}
    assert changed <= epochs | always | {"limits.memory"}  # the last on a machine larger than CI's


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested values by their paths, such as source.urls.0."""
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            path: leaf
            for key, one in inside
            for path, leaf in flat(one, f"{name}.{key}" if name else str(key)).items()
        }
    return {name: value}


@contextmanager
def holding(program: str) -> Iterator[None]:
    """Processes that hold memory between them until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, MARK: "yes"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin and process.stdout
    assert process.stdout.readline() + process.stdout.readline() == b"\n\n"
    try:
        yield
    finally:
        process.stdin.close()
        process.stdout.read()  # until the last of them has ended
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize("program", [HOLDING, LEAVING])
def test_the_peak_counts_shared_memory_once_whoever_the_parent_is(program: str) -> None:
    with MemoryWatch(f"{MARK}=yes") as watch:
        with watch.measured() as peak, holding(program):
            watch.sample()
        with watch.measured() as after:
            watch.sample()
    assert HELD_MIB <= peak.size_bytes / 2**20 < 1.5 * HELD_MIB
    assert 0 < peak.processor_seconds < 60
    assert after.size_bytes == 0
