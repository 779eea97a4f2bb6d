"""The quarantine: looked at, and let out for another try, with who and why."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sightline import readmission, rejection, tables
from sightline.catalog import Catalog, open_catalog
from sightline.cli import main
from sightline.errors import ConfigError
from sightline.source_config import FetchSpec
from tests.conftest import make_task, store_partition, write_dataset


@pytest.fixture
def catalog(own_places: Path) -> Catalog:
    """Four rejects, all of them final."""
    catalog = open_catalog("pets")
    when = datetime.now(UTC) - timedelta(days=1)
    store_partition(
        catalog.rejects,
        [reject("a'quote", "corrupt", when), reject("b", "corrupt", when), reject("c", "truncated", when),
         reject("d", "taken_down", when)],
        "2026-11-04",
    )  # fmt: skip
    return catalog


def reject(uri: str, reason: str, when: datetime) -> dict[str, Any]:
    row = {"uri": uri, "stage": "fetch_images", "reason": reason, "attempts": 1}
    return {**row, "rejected_at": when, "partition": "2026-11-04", "detail": f"{reason} it is"}


def due(catalog: Catalog) -> list[str]:
    found = rejection.find_due(catalog, FetchSpec(), "2026-11-04")
    return sorted(found["uri"].to_pylist())


def test_a_final_reject_is_tried_again_once_a_person_wants_it(catalog: Catalog) -> None:
    assert due(catalog) == []
    assert readmission.readmit(catalog, ["a'quote"], None, "was mended", "ann") == ["a'quote"]
    assert due(catalog) == ["a'quote"]
    assert rejection.due_partitions(catalog, FetchSpec(), "2026-11-05") == ["2026-11-04"]
    readmission.readmit(catalog, [], "corrupt", "all were mended", "ann")
    assert due(catalog) == ["a'quote", "b"]
    with tables.query(noted=catalog.readmissions) as sql:
        notes = sql("SELECT * FROM noted ORDER BY uri").to_pylist()
    assert [(one["uri"], one["reason"]) for one in notes] == [
        ("a'quote", "was mended"), ("b", "all were mended"),
    ]  # fmt: skip
    assert {(one["readmitted_by"], one["rejected_for"]) for one in notes} == {("ann", "corrupt")}


def test_once_tried_the_note_is_spent_and_may_be_given_again(catalog: Catalog) -> None:
    readmission.readmit(catalog, ["b"], None, "was mended", "ann")
    task, _ = make_task("fetch_images", "2026-11-05")
    again = {**reject("b", "corrupt", datetime.now(UTC)), "attempts": 2}
    rejection.write(catalog, task, "2026-11-04", [again])
    assert due(catalog) == []
    readmission.readmit(catalog, ["b"], None, "now it is", "bob")
    assert due(catalog) == ["b"]
    assert tables.count_rows(catalog.readmissions) == 2


def test_what_cannot_be_tried_again_is_said(catalog: Catalog) -> None:
    with pytest.raises(
        ConfigError, match="'d' is not tried again: it was taken down, which is for"
    ):
        readmission.readmit(catalog, ["d"], None, "please", "ann")
    with pytest.raises(
        ConfigError, match="'x' is no reject of pets; 'sightline rejects pets' lists"
    ):
        readmission.readmit(catalog, ["b", "x"], None, "please", "ann")
    with pytest.raises(ConfigError, match="No reject has the reason 'corupt'. Known: unreadable, "):
        readmission.readmit(catalog, [], "corupt", "please", "ann")
    with pytest.raises(ConfigError, match="Give the uris of rejects, or the reason"):
        readmission.readmit(catalog, ["b"], "corrupt", "please", "ann")
    assert tables.current_version(catalog.readmissions) is None


def test_the_command_shows_the_quarantine_and_lets_out_of_it(
    catalog: Catalog, own_places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(own_places, "pets", "source: {type: digits}\n")
    assert main(["re-admit", "pets", "--uri", "c", "--reason", "was mended"]) == 0
    assert "1 rejects of pets are tried again by the next ingest" in capsys.readouterr().out
    assert main(["rejects", "pets", "--reason", "truncated"]) == 0
    said = capsys.readouterr().out
    assert "truncated it is" in said
    assert "to be tried again" in said
    assert "corrupt" not in said
    assert main(["re-admit", "pets", "--uri", "nobody", "--reason", "x"]) == 2
