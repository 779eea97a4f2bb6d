"""The machine's clock jumps while nights are at work, three days ahead and two back, between them and in the
middle of a task: nothing is lost, and what is newest is so whatever the clock has said."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from sightline import compaction, ledger, maintenance, models, tables
from sightline.catalog import open_catalog
from tests.chaos import killing, laws
from tests.chaos.digit_photos import DATASET, bring, write_digits
from tests.chaos.test_soak import check_report
from tests.conftest import write_dataset

pytestmark = pytest.mark.chaos_whole
log = logging.getLogger(__name__)

# By night: days by which the clock is fast when it begins, the task in which it jumps, and to what.
NIGHTS = (
    (0, "fetch_images", 3), (3, "featurize", -2), (-2, "train", 3), (3, "plan", 0), (-2, "split", -2),
    (0, "report", 0),
)  # fmt: skip
DAY_SECONDS = 86_400


@dataclass
class Clock:
    """What the processes of a night take for the time: the true one and some days."""

    file: Path
    days: list[tuple[float, int]] = field(
        default_factory=list
    )  # by how many it was fast, since when

    def jump(self, days: int) -> None:
        """Be fast by so many days from now on."""
        self.days.append((time.time(), days))
        beside = self.file.with_suffix(".new")
        beside.write_text(f"{days:+d}d\n")
        beside.replace(self.file)

    def at(self, moment: float) -> int:
        """By how many days it was fast at a true moment, in seconds since 1970."""
        return next((days for since, days in reversed(self.days) if since <= moment), 0)

    def stamp(self, folder: Path, since: float) -> None:
        """Give what was written since a moment the times that a disk of this machine would have given it."""
        for path in folder.rglob("*"):
            written_at = path.stat().st_mtime
            if path.is_file() and written_at >= since:
                at = written_at + self.at(written_at) * DAY_SECONDS
                os.utime(path, (at, at))


@pytest.fixture
def clock(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """A clock for all processes that the test starts."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("there is no libfaketime on this machine (Debian's package faketime)")
    clock = Clock(own_places / "clock")
    clock.jump(0)
    for name, value in {
        "LD_PRELOAD": found[0],
        "FAKETIME_TIMESTAMP_FILE": clock.file,
        "FAKETIME_CACHE_DURATION": 1,
        "FAKETIME_DONT_FAKE_MONOTONIC": 1,  # as in life: what waits does not wait for days
        "NO_FAKE_STAT": 1,  # files have the times that they have
    }.items():
        monkeypatch.setenv(name, str(value))
    yield clock


def test_nights_on_which_the_clock_jumps(own_places: Path, clock: Clock) -> None:
    photos = own_places / "photos"
    spec = write_dataset(own_places, "digits", DATASET.format(photos=photos, days=2))
    catalog, digits = open_catalog(spec.name), write_digits()
    for night, (days, task, later) in enumerate(NIGHTS):
        bring(photos, digits, night)
        clock.jump(days)
        began, run_id = time.time(), f"night__night-{night:02d}"
        with jumping(clock, own_places / "state" / f"{run_id}-000.log", task, later):
            killing.run_night(spec.name, f"night-{night:02d}", 0, Random(killing.SEED))
        clock.stamp(Path(catalog.root), began)
        laws.check_rows(catalog)
        laws.check_champion(catalog)
        check_newest(run_id)
        told = datetime.now(UTC) + timedelta(days=later)
        cleaned = maintenance.maintain(spec, catalog, told)
        laws.check_rows(catalog)
        laws.check_champion(catalog)
        log.warning(
            "night %d, %+d days, in %s %+d: %d images, %s", night, days, task, later,
            tables.count_rows(catalog.images), cleaned.counts,
        )  # fmt: skip
    assert len(list(Path(catalog.models).glob("*/weights.safetensors"))) == spec.keep.models
    laws.check_no_orphans(spec, catalog)
    laws.check_rows(catalog)


def check_newest(run_id: str) -> None:
    """The newest run and model are those of the night that has just ended, whatever time it was."""
    catalog = open_catalog("digits")
    champion = models.require_champion(catalog)
    assert champion["tables"]["features"] == compaction.data_version(catalog.features)
    assert ledger.last_record(catalog, "ingest_digits", "featurize")["run_id"] == run_id
    assert ledger.last_run(catalog, "train_digits")[0]["run_id"] == run_id
    check_report(catalog, champion)


@contextmanager
def jumping(clock: Clock, output: Path, task: str, days: int) -> Iterator[None]:
    """Within the block, the clock jumps once a task of a night has begun, of which its log tells."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            if output.exists() and f"task {task} begins" in output.read_text():
                return clock.jump(days)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert clock.days[-1][1] == days, f"task {task} never began"
