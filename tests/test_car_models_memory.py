"""The car_models training at its full size, EfficientNet-B6 on 528 pixels, in a machine of 6 GiB."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from sightline import memory, models
from sightline.config import DatasetSpec
from tests.colours import COLOURS
from tests.conftest import catalog_of, image_row, jpeg, store_rows, write_dataset

pytestmark = pytest.mark.nightly
log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[1] / "include" / "datasets" / "car_models.yaml"
CGROUPS = Path("/sys/fs/cgroup/memory")
LIMIT_BYTES = 6 * memory.GIB
SPLITS = ["train"] * 20 + ["val"] * 2 + ["test"] * 2
# The stage as its Spark job runs it, beside its JVM.
TRAINING = """
import logging, sys
from sightline import fine_tuning, ledger, models
from sightline.catalog import open_catalog
from sightline.config import load_dataset
from sightline.spark import start_session
from tests.conftest import make_task
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
catalog = open_catalog("car_models")
plan = models.read_plan(catalog, sys.argv[1])
session = start_session("car_models")
fine_tuning.fine_tune(session, load_dataset("car_models"), catalog, *make_task("fine_tune"), plan)
session.stop()
"""


def one_epoch_each() -> str:
    """The shipped file with two trials, one epoch a phase, and pictures that lie in the tables already."""
    spec: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    spec["source"] = {"type": "folder", "path": "photos"}
    spec["backbone"]["weights"] = "random"
    for phase in spec["fine_tune"]["phases"]:
        phase["epochs"] = 1
    spec["fine_tune"]["search"]["trials"] = 2
    spec["train"] = None
    return yaml.safe_dump(spec)


def store_photos(spec: DatasetSpec) -> str:
    """Small photos in all splits; returns the version of the training's plan."""
    catalog, rng, names = catalog_of(spec), np.random.default_rng(0), sorted(COLOURS)
    labels = [names[number % 3] for number in range(len(SPLITS))]
    rows = [image_row(jpeg(rng, np.array(COLOURS[label]), 320), label) for label in labels]
    store_rows(catalog.images, rows)
    store_rows(
        catalog.splits,
        [
            {"image_id": row["image_id"], "group_id": row["phash"], "split": split}
            for row, split in zip(rows, SPLITS, strict=True)
        ],
    )
    plan = models.make_plan(spec, catalog, "none")
    models.write_plan(catalog, plan)
    return plan.version


@pytest.fixture
def small_machine() -> Iterator[Path]:
    """A control group with a memory limit, or a skip where we may not make one."""
    group = CGROUPS / f"sightline-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
    except OSError:
        pytest.skip("no right to make a memory control group")
    yield group
    left = [psutil.Process(int(pid)) for pid in (group / "cgroup.procs").read_text().split()]
    psutil.wait_procs(left, timeout=60)  # its JVM and fork server end after their parent
    group.rmdir()


def test_car_models_trains_in_six_gibibytes(
    own_places: Path, small_machine: Path, tmp_path: Path
) -> None:
    spec = write_dataset(own_places, "car_models", one_epoch_each())
    version = store_photos(spec)
    enter = ["sh", "-c", f'echo $$ > {small_machine}/cgroup.procs && exec "$@"', "sh"]
    said, peaks = tmp_path / "said.txt", dict[str, int]()
    with said.open("w") as stream:
        training = subprocess.Popen(
            [*enter, sys.executable, "-c", TRAINING, version],
            stdout=stream, stderr=subprocess.STDOUT, cwd=SHIPPED.parents[2],
        )  # fmt: skip
        try:
            while training.poll() is None:
                note_peaks(training.pid, peaks)
                try:
                    training.wait(1)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            training.kill()
            training.wait()
    log.warning(
        "peaks: %s; %s", {name: memory.shown(one) for name, one in peaks.items()}, said.read_text()
    )
    assert training.returncode == 0, said.read_text()
    assert "micro-batches of" in said.read_text()
    assert "search: trial 2 of 2" in said.read_text()
    assert peaks["all"] < LIMIT_BYTES
    model = models.read_model(
        catalog_of(spec), models.candidates(spec, plan_of(spec, version))["fine_tuned"]
    )
    assert model is not None
    assert len(model["fine_tuning"]["history"]) == 3


def plan_of(spec: DatasetSpec, version: str) -> models.Plan:
    return models.read_plan(catalog_of(spec), version)


def note_peaks(pid: int, peaks: dict[str, int]) -> None:
    """The most that the trainer, its JVM and its data workers have held, apart and together."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    java = [one.pid for one in children if is_java(one)]
    others = [one.pid for one in children if one.pid not in java]
    held = {
        "trainer": memory.held_bytes([pid]),
        "java": memory.held_bytes(java),
        "workers": memory.held_bytes(others),
    }
    held["all"] = sum(held.values())
    for name, value in held.items():
        peaks[name] = max(peaks.get(name, 0), value)


def is_java(process: psutil.Process) -> bool:
    try:
        return "java" in process.name()
    except psutil.NoSuchProcess:
        return False
