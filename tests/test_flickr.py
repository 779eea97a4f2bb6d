"""Flickr: listings that are whole, resumed and spaced, against a server that speaks and misbehaves alike."""

import json
import logging
import re
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from sightline import storage
from sightline.catalog import open_catalog
from sightline.config import read_dataset
from sightline.errors import SightlineError, SourceError
from sightline.schemas import MANIFEST
from sightline.source_config import FlickrSource
from sightline.sources import flickr
from sightline.sources.access import Access, Credential
from sightline.sources.flickr_windows import Window
from tests.servers.flickr import KEY, FlickrServer, Photo, make_photos

DAY = "2026-11-01"
START = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
SECONDS = 86_400


@pytest.fixture
def server() -> Iterator[FlickrServer]:
    with FlickrServer([]) as running:
        yield running


def source_of(server: FlickrServer, **more: Any) -> FlickrSource:
    """One class, and no time lost between queries."""
    block = {"type": "flickr", "searches": {"bus": "bus"}, "api": server.api, **more}
    return FlickrSource.model_validate({"queries_per_hour": 3_600_000, **block})


def access_to(partition: str = DAY, key: str = KEY, cursor: Any = None) -> Access:
    credential = Credential(password=key)
    catalog = open_catalog("rides")
    return Access(catalog, partition, lambda name: credential, {} if cursor is None else cursor)


def listing(source: FlickrSource, access: Access) -> list[dict[str, Any]]:
    """All rows of a listing, which come in lists of bounded length."""
    lists = list(flickr.list_images(source, access))
    assert all(len(rows) <= 5_000 for rows in lists)
    return [row for rows in lists for row in rows]


def spread(count: int, start: int = START, seconds: int = SECONDS) -> list[int]:
    """Upload times that fill a span evenly, its first second included."""
    return [start + seconds * index // count for index in range(count)]


def three_days() -> list[Photo]:
    """12,345 photos: an hour with 5,000 in the first day, a second with 40 in the second."""
    times = spread(1_000) + spread(5_000, START + 13 * 3_600, 3_600)
    times += spread(3_000, START + SECONDS) + [START + SECONDS + 40_000] * 40
    times += spread(3_303, START + 2 * SECONDS) + [START + SECONDS - 1, START + 3 * SECONDS - 1]
    return make_photos("bus", times)


def test_three_days_of_12345_photos_are_listed_whole_in_under_100_queries(
    server: FlickrServer,
) -> None:
    server.photos = three_days()
    found: list[str] = []
    for day in ("2026-11-01", "2026-11-02", "2026-11-03"):
        access = access_to(day)
        rows = listing(source_of(server), access)
        assert {row["uploaded_at"].strftime("%Y-%m-%d") for row in rows} == {day}
        harvest = access.metrics["harvest"]
        assert (harvest["completeness"], harvest["missing"], harvest["duplicate"]) == (1.0, 0, 0)
        assert harvest["reported"] == harvest["unique"] == len(rows)
        assert sum(window["unique"] for window in harvest["windows"]) == len(rows)
        found += [row["uri"] for row in rows]
    assert len(found) == len(set(found)) == 12_345
    assert max(int(query["page"]) for query in server.queries) <= 8
    assert len(server.queries) == 36


def test_a_harvest_killed_at_any_query_goes_on_with_the_same_rows(server: FlickrServer) -> None:
    times = spread(600) + spread(3_700, START + 50_000, 900)
    server.photos = make_photos("bus", times) + make_photos("tram", spread(30), first=9_000)
    source = source_of(server, searches={"bus": "bus", "tram": "tram"})
    access = access_to()
    whole = listing(source, access)
    queries = len(server.queries)
    assert access.metrics["harvest"]["queries"] == queries > 10
    for killed_at in range(1, queries + 1):
        cursor: dict[str, Any] = {}
        server.queries.clear()
        server.faults.extend([""] * (killed_at - 1) + ["code 116"])
        with pytest.raises(SourceError):
            listing(source, access_to(cursor=cursor))
        before = _windows(server)
        server.queries.clear()
        json.dumps(cursor)  # Airflow's task state holds JSON
        again = access_to(cursor=cursor)
        assert listing(source, again) == whole
        assert len(before & _windows(server)) == 1, "only the one that broke off is asked again"
        assert again.metrics["harvest"] == access.metrics["harvest"]


def _windows(server: FlickrServer) -> set[tuple[str, str]]:
    return {
        (one["text"], one["min_upload_date"] + one["max_upload_date"]) for one in server.queries
    }


def test_a_consumer_that_stops_midway_finds_all_rows_again(server: FlickrServer) -> None:
    server.photos = make_photos("bus", spread(4_100))
    cursor: dict[str, Any] = {}
    first = next(iter(flickr.list_images(source_of(server), access_to(cursor=cursor))))
    rows = listing(source_of(server), access_to(cursor=cursor))
    assert rows[: len(first)] == first
    assert len(rows) == 4_100
    assert storage.list_names(open_catalog("rides").staging) == []


def test_a_new_run_and_a_changed_source_harvest_afresh(server: FlickrServer) -> None:
    server.photos = make_photos("bus", spread(5)) + make_photos("tram", spread(7), first=100)
    cursor: dict[str, Any] = {}
    next(iter(flickr.list_images(source_of(server), access_to(cursor=cursor))))
    trams = source_of(server, searches={"bus": "tram"})
    assert len(listing(trams, access_to(cursor=cursor))) == 7
    assert len(listing(source_of(server), access_to())) == 5
    assert storage.list_names(open_catalog("rides").staging) == []


def test_a_second_that_holds_more_than_a_search_hands_out_counts_what_is_missing(
    server: FlickrServer,
) -> None:
    server.photos = make_photos("bus", [START + 77] * 5_000 + spread(10))
    access = access_to()
    assert len(listing(source_of(server), access)) == 4_010
    harvest = access.metrics["harvest"]
    assert (harvest["reported"], harvest["missing"]) == (5_010, 1_000)
    assert harvest["completeness"] == pytest.approx(4_010 / 5_010)
    worst = harvest["windows"][0]
    assert (worst["start"], worst["end"], worst["missing"]) == (START + 77, START + 78, 1_000)
    assert max(int(query["page"]) for query in server.queries) <= 8


def test_a_photo_that_slips_through_between_two_pages_is_found_by_asking_again(
    server: FlickrServer,
) -> None:
    server.photos = make_photos("bus", spread(1_200))
    server.leave_out = lambda number, photo: photo.number == 700 and number <= 3
    server.total_as = str
    access = access_to()
    assert len(listing(source_of(server), access)) == 1_200
    assert access.metrics["harvest"]["completeness"] == 1.0
    assert len(server.queries) == 6


def test_a_photo_that_is_never_handed_out_is_counted_as_missing(server: FlickrServer) -> None:
    server.photos = make_photos("bus", spread(100))
    server.leave_out = lambda number, photo: photo.number == 70
    access = access_to()
    assert len(listing(source_of(server), access)) == 99
    harvest = access.metrics["harvest"]
    assert (harvest["missing"], harvest["completeness"], len(server.queries)) == (1, 0.99, 2)


def test_photos_that_come_and_go_while_paging_do_no_harm(server: FlickrServer) -> None:
    server.photos = make_photos("bus", spread(1_200))

    def change(number: int) -> None:
        if number == 2:
            server.photos += make_photos("bus", [START + SECONDS - 5] * 3_000, first=5_000)
        if number == 4:
            del server.photos[:3]

    server.before = change
    access = access_to()
    rows = listing(source_of(server), access)
    assert {photo.number for photo in server.photos} <= {_number(row) for row in rows}
    assert access.metrics["harvest"]["completeness"] == 1.0


def _number(row: dict[str, Any]) -> int:
    return int(row["landing_url"].rsplit("/", 1)[1])


def test_a_photo_of_several_classes_goes_to_the_first(server: FlickrServer) -> None:
    server.photos = make_photos("tram", spread(3)) + make_photos("bus", spread(2), first=3)
    access = access_to()
    rows = listing(source_of(server, searches={"tram": "tram", "bus": "bus"}), access)
    assert [(row["label"], _number(row)) for row in rows] == [
        *[("tram", 1), ("tram", 2), ("tram", 3)],
        ("bus", 4),
    ]
    assert access.metrics["harvest"]["several_classes"] == 1


def test_rows_tell_what_the_manifest_wants(server: FlickrServer) -> None:
    server.photos = [
        Photo(1, "bus", START + 5),
        Photo(2, "bus", START + 6, licence=9, sizes=("o",)),
        Photo(3, "bus", START + 7, sizes=()),
        Photo(4, "bus", START + 8, licence=0),
    ]
    access = access_to()
    rows = listing(source_of(server), access)
    assert rows[0] == {
        "uri": f"{server.address}/photos/1_5ec_l.jpg",
        "label": "bus",
        "licence": "CC-BY-2.0",
        "author": "owner 1",
        "landing_url": "https://www.flickr.com/photos/1@N00/1",
        "title": "bus 1",
        "uploaded_at": datetime(2026, 11, 1, 0, 0, 5, tzinfo=UTC),
    }
    assert rows[1]["uri"].endswith("2_5ec_o.jpg")
    assert rows[2]["uri"] == "https://live.staticflickr.com/65535/3_5ec.jpg"
    assert len(rows) == 3, "all rights reserved is not asked for"
    assert access.metrics["harvest"]["without_url"] == 1
    table = pa.Table.from_pylist([{**row, "partition": DAY} for row in rows], schema=MANIFEST)
    assert table["uploaded_at"].null_count == 0


@pytest.mark.parametrize(
    ("photo", "largest", "expected"),
    [
        ({"url_m": "m", "url_l": "l", "url_k": "k"}, 1024, "l"),
        ({"url_l": "l", "width_l": 1100, "url_m": "m"}, 1024, "m"),
        ({"url_l": "l", "height_l": "1100", "width_l": "9", "url_m": "m"}, 1024, "m"),
        ({"url_o": "o", "width_o": "900", "height_o": 800, "url_m": "m"}, 1024, "o"),
        ({"url_o": "o", "url_k": "k"}, 1024, "k"),
        ({"url_o": "o"}, 1024, "o"),
        ({"url_l": ""}, 1024, None),
        ({}, 1024, None),
    ],
)
def test_the_largest_size_that_fits_is_chosen(
    photo: dict[str, Any], largest: int, expected: str | None
) -> None:
    assert flickr.choose_url(photo, largest) == expected


def test_licences_have_readable_codes() -> None:
    codes = [flickr.licence_code(number) for number in (1, "4", 9, 17)]
    assert codes == ["CC-BY-NC-SA-2.0", "CC-BY-2.0", "CC0-1.0", "flickr-licence-17"]


PASSING = ["code 10", "code 105", "code 106", "code 429", "http 429 0", "http 500", "http 503"]
PASSING += ["html", "list", "reset", "slow"]


@pytest.mark.parametrize("fault", PASSING)
def test_faults_that_pass_are_met_with_another_try(
    server: FlickrServer, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    caplog.set_level(logging.DEBUG)
    server.photos = make_photos("bus", spread(600))
    server.faults.extend(["", fault, fault])
    # A short patience only where it is what is tested: a busy machine may answer slowly too.
    source = source_of(server, timeout_seconds=0.3 if fault == "slow" else 30.0)
    assert len(listing(source, access_to())) == 600
    assert len(server.queries) == 4 or fault == "slow"
    assert "asking again" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("fault", PASSING)
def test_faults_that_stay_leave_the_next_try_to_airflow(
    server: FlickrServer, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    caplog.set_level(logging.DEBUG)
    server.faults.extend([fault] * 5)
    with pytest.raises(ConnectionError, match="did not answer") as caught:
        listing(source_of(server, timeout_seconds=0.1), access_to())
    assert not isinstance(caught.value, SightlineError)
    assert len(server.queries) == 5
    assert KEY not in caplog.text + _chain(caught.value)


@pytest.mark.parametrize("fault", ["code 100", "code 116", "code 1", "http 404", "http 302"])
def test_faults_for_good_are_told_at_once(
    server: FlickrServer, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    caplog.set_level(logging.DEBUG)
    server.faults.append(fault)
    with pytest.raises(SourceError) as caught:
        listing(source_of(server), access_to())
    assert len(server.queries) == 1
    assert KEY not in caplog.text + _chain(caught.value)


def _chain(error: BaseException | None) -> str:
    """All that a traceback would print of an error's causes."""
    text = ""
    while error is not None:
        text += f"{error!r} {error}\n"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


def test_a_wrong_key_is_called_so_and_not_told(server: FlickrServer) -> None:
    wrong = "another key/with + signs"
    with pytest.raises(SourceError, match="does not know the key") as caught:
        flickr.survey(source_of(server), access_to(key=wrong))
    assert wrong not in _chain(caught.value)


def test_retry_after_is_honoured_up_to_a_bound(server: FlickrServer) -> None:
    server.faults.append("http 429 1")
    started = time.monotonic()
    listing(source_of(server), access_to())
    assert time.monotonic() - started >= 1
    server.queries.clear()
    server.faults.append("http 503 3600")
    with pytest.raises(ConnectionError, match="tries: 1"):
        listing(source_of(server), access_to())
    assert len(server.queries) == 1


def test_queries_are_spaced_and_the_first_waits_too(server: FlickrServer) -> None:
    server.photos = make_photos("bus", spread(1_600))
    started = time.monotonic()
    listing(source_of(server, queries_per_hour=36_000), access_to())
    assert len(server.queries) == 4
    assert time.monotonic() - started >= 0.4


def test_a_survey_takes_one_query_and_tells_what_the_first_class_holds(
    server: FlickrServer,
) -> None:
    server.photos = make_photos("bus", spread(12))
    found = flickr.survey(source_of(server), access_to())
    assert "12 photos of 'bus'" in found.facts[0]
    assert found.images_by_class is None
    assert [query["per_page"] for query in server.queries] == ["1"]


@pytest.mark.parametrize("partition", ["all", "2026-13-01", "20261101", "2026-11-01T00", ""])
def test_a_partition_that_is_no_day_is_refused(server: FlickrServer, partition: str) -> None:
    with pytest.raises(SourceError, match="is no day"):
        flickr.survey(source_of(server), access_to(partition))
    with pytest.raises(SourceError, match="is no day"):
        listing(source_of(server), access_to(partition))
    assert server.queries == []


@pytest.mark.parametrize("credential", [None, Credential("someone", "")])
def test_without_a_key_the_connection_to_add_is_named(
    server: FlickrServer, credential: Credential | None
) -> None:
    access = Access(open_catalog("rides"), DAY, lambda name: credential)
    with pytest.raises(SourceError, match="AIRFLOW_CONN_FLICKR_DEFAULT") as caught:
        flickr.survey(source_of(server), access)
    assert "airflow connections add flickr_default" in str(caught.value)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_a_split_window_leaves_no_second_out(parts: int) -> None:
    windows = Window(100, 107).split(parts)
    assert [second for one in windows for second in range(one.start, one.end)] == [*range(100, 107)]


def test_recorded_pages_of_the_real_api_parse(
    server: FlickrServer, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = json.loads((shared_data / "api/flickr/photos.search.json").read_text())
    cassette = (shared_data / "api/flickr/vcr_flickrie/searches.yml").read_text()
    body = re.search(r'string: ("\{.*\}")', cassette)  # the file around it is no YAML of today
    assert body is not None
    old = json.loads(yaml.safe_load(body[1]))
    for page in (recorded, old):
        monkeypatch.setattr(
            server, "answer", lambda query, page=page: page
        )  # the server's, not ours
        access = access_to()
        rows = listing(source_of(server), access)
        photos = page["photos"]["photo"]
        assert [_number(row) for row in rows] == [int(photo["id"]) for photo in photos]
        assert access.metrics["harvest"]["reported"] == int(page["photos"]["total"])
        assert all(row["uri"].startswith("https://live.staticflickr.com/") for row in rows)


def test_the_server_hands_out_photos_of_their_own_and_a_picture_for_removed_ones(
    server: FlickrServer,
) -> None:
    server.photos = [Photo(1, "bus", START), Photo(2, "bus", START)]
    server.photos += [Photo(3, "bus", START, is_removed=True)]
    # Another test may have asked through a proxy that is gone, which urllib remembers.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answers = []
    for row in listing(source_of(server), access_to()):
        with direct.open(row["uri"]) as answer:
            answers.append((answer.read()[:3], answer.url.rsplit("/", 1)[1]))
    jpeg, png = b"\xff\xd8\xff", b"\x89PN"
    assert answers == [(jpeg, "1_5ec_l.jpg"), (jpeg, "2_5ec_l.jpg"), (png, "photo_unavailable.png")]


def test_land_transport_is_a_dataset_of_ten_classes() -> None:
    spec = read_dataset(Path(__file__).parents[1] / "include/datasets/land_transport.yaml")
    assert isinstance(spec.source, FlickrSource)
    assert len(spec.source.searches) == 10
