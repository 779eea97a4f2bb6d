"""What is of no dataset: old logs, killed drivers' files, unused code and weights go; what is used stays."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sightline import cli, shared_maintenance, shipping, storage
from sightline.settings import load_settings
from sightline.shared_maintenance import Cleaned
from sightline.spark_cluster import make_library
from tests.conftest import write_dataset

NOW = datetime.now(UTC)
DIGITS = "source: {type: digits}\n"


def clean(places: Path, now: datetime = NOW) -> Cleaned:
    scratch = [str(places / name) for name in ("scratch", "another", "none")]
    return shared_maintenance.clean(load_settings(), str(places / "logs"), scratch, now)


def grow_older(folder: Path, days: float) -> None:
    """Let all files below a folder be as old."""
    at = (NOW - timedelta(days=days)).timestamp()
    for path in folder.rglob("*"):
        os.utime(path, (at, at))


def test_old_logs_go_those_of_airflow_and_those_of_emr(own_places: Path) -> None:
    folders = (own_places / "logs", own_places / "data" / "_logs")
    for folder in folders:
        storage.write_bytes(f"{folder}/run/old.log", b"old")
        grow_older(folder, 91)
        storage.write_bytes(f"{folder}/run/new.log", b"new")
    assert clean(own_places).logs == 2
    assert [storage.list_names(f"{folder}/run") for folder in folders] == [["new.log"]] * 2
    assert clean(own_places) == Cleaned(logs=0, drivers=0, archives=0)


def test_what_killed_drivers_have_left_goes_when_it_is_old(own_places: Path) -> None:
    for name in ("scratch", "another"):
        storage.write_bytes(f"{own_places / name}/spark-1/pyspark-1/broadcast", b"weights")
    grow_older(own_places / "another", 8)
    assert clean(own_places).drivers == 1
    assert [path.parts[-4] for path in own_places.rglob("broadcast")] == ["scratch"]
    assert shared_maintenance.clean_scratch([str(own_places / "scratch")]) == 1


def test_code_goes_that_no_job_of_late_was_sent_with_and_only_that(own_places: Path) -> None:
    write_dataset(own_places, "one", DIGITS)
    unused = shipping.ship("featurize")
    write_dataset(own_places, "two", DIGITS)
    used, script = shipping.ship("featurize"), own_places / "bootstrap.sh"
    script.write_text("echo")
    shipping.ship_file(script)
    grow_older(own_places / "data", 31)
    assert shipping.ship("featurize") == used  # a night of today, by an archive of long ago
    assert clean(own_places).archives == 2
    assert [storage.exists(url) for url in (used.archive, used.program)] == [True, True]
    assert not storage.exists(unused.archive)
    assert len(storage.list_names(f"{own_places}/data/{shipping.FOLDER}")) == 1
    assert storage.exists(shipping.ship_file(script))  # what is gone is sent again


def test_weights_go_that_no_job_of_late_was_sent_with_and_only_those(own_places: Path) -> None:
    unused, used = (shipping.ship_weights(lambda one=one: [one, b"more"]) for one in (b"1", b"2"))
    grow_older(own_places / "data", 31)
    assert shipping.ship_weights(lambda: [b"2", b"more"]) == used
    assert clean(own_places).archives == 1
    assert [storage.exists(one.url) for one in (used, unused)] == [True, False]
    assert storage.list_names(f"{own_places}/data/{shipping.WEIGHTS}") == [used.sha256]


def test_a_cluster_s_library_stays_as_long_as_it_is_used(own_places: Path) -> None:
    settings = load_settings()
    write_dataset(own_places, "one", DIGITS)
    unused = make_library(settings)
    write_dataset(own_places, "two", DIGITS)
    used = make_library(settings)
    grow_older(settings.state, 31)
    assert make_library(settings) == used
    assert clean(own_places).archives == 1
    assert (used.exists(), unused.exists()) == (True, False)


def test_the_command_cleans_all_it_can_and_names_what_it_cannot(
    own_places: Path, own_signals: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(own_places, "good", DIGITS)
    (own_places / "datasets" / "broken.yaml").write_text("source: {type: moon}\n")
    log = own_places / "state" / "airflow" / "logs" / "old.log"
    storage.write_bytes(str(log), b"old")
    os.utime(log, (1, 1))
    half = own_places / "data" / "good" / "staging" / "fetch-1"
    storage.write_bytes(f"{half}/part-0.parquet", b"work")
    assert cli.main(["maintain", "--at-once"]) == 1
    said = capsys.readouterr()
    assert "good: 0 models retired, 0 small files merged, 1 files removed." in said.out
    assert "broken.yaml" in said.err
    assert not log.exists()
    assert not half.exists()
