"""Flickr: a search a class, a partition a day of uploads (UTC), listed whole and resumed where it broke off.

Each finished window of the listing is a file in the staging folder until the listing has been read whole.
"""

import json
import logging
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Any

from sightline import storage
from sightline.errors import SourceError
from sightline.source_config import FlickrSource
from sightline.sources.access import Access, Survey
from sightline.sources.flickr_search import SIZES, FlickrSearch
from sightline.sources.flickr_windows import (
    Harvest,
    Tally,
    Telling,
    Window,
    harvest_window,
    walk_windows,
)

log = logging.getLogger(__name__)

LICENCES = {  # 11 to 16 are Creative Commons 4.0; which is which is not documented
    "0": "all-rights-reserved",
    "1": "CC-BY-NC-SA-2.0",
    "2": "CC-BY-NC-2.0",
    "3": "CC-BY-NC-ND-2.0",
    "4": "CC-BY-2.0",
    "5": "CC-BY-SA-2.0",
    "6": "CC-BY-ND-2.0",
    "7": "no-known-copyright-restrictions",
    "8": "united-states-government-work",
    "9": "CC0-1.0",
    "10": "PDM-1.0",
}

Row = dict[str, Any]


def survey(source: FlickrSource, access: Access) -> Survey:
    """One query: whether the key is good, and what the first class's search says it holds."""
    day = _day(access.partition)
    label, text = next(iter(source.searches.items()))
    with FlickrSearch(source, _key(source, access)) as flickr:
        total = flickr.search(text, day, page=1, photos_per_page=1).total
    fact = f"Flickr tells of {total} photos of {label!r} uploaded on {access.partition}."
    if day.end <= time.time():
        return Survey(facts=(fact,))
    return Survey(facts=(fact, "That day is not over: photos uploaded later will not be listed."))


def list_images(source: FlickrSource, access: Access) -> Iterator[list[Row]]:
    """Yield the rows of one window of upload time after another, class after class.

    A photo that several classes' searches find goes to the first of them. access.metrics["harvest"] tells how
    whole the listing is. ConnectionError where Flickr is out of reach for now; SourceError for good.
    """
    day = _day(access.partition)
    tally, told = Tally(), Telling(access.partition, day, len(source.searches))
    folder = _folder(source, access)
    kept = set(storage.list_names(folder))
    with FlickrSearch(source, _key(source, access)) as flickr:
        for number, (label, text) in enumerate(source.searches.items()):

            def harvest(window: Window, number: int = number, text: str = text) -> Row:
                name = f"{number}-{window.start}-{window.end}.json"
                url = storage.join(folder, name)
                if name not in kept:
                    found = harvest_window(
                        lambda part, page: flickr.search(text, part, page), window
                    )
                    storage.write_bytes(url, json.dumps(_record(found, source)).encode())
                record: Row = storage.read_json(url)
                tally.queries += record["queries"]
                return record

            tally.start_class(label)
            for window, record in walk_windows(day, harvest):
                rows = tally.add(window, record)
                told.say(number, window, tally)
                if rows:
                    yield [_dated({**row, "label": label}) for row in rows]
    access.metrics["harvest"] = tally.metrics()
    log.info("harvest of %s: %s", access.partition, tally)
    storage.remove_tree(folder)


def _day(partition: str) -> Window:
    try:
        day = date.fromisoformat(partition)
        if partition != day.isoformat():
            raise ValueError(partition)
    except ValueError:
        raise SourceError(
            f"Partition {partition!r} is no day; a flickr source takes one day of uploads a run, "
            "such as 2026-11-01."
        ) from None
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return Window(int(start.timestamp()), int((start + timedelta(days=1)).timestamp()))


def _key(source: FlickrSource, access: Access) -> str:
    credential = access.credential(source.connection)
    if credential is None or not credential.password:
        raise SourceError(
            f"The Airflow connection {source.connection!r} with your Flickr API key as its password is "
            f"missing; set AIRFLOW_CONN_{source.connection.upper()}='"
            '{"conn_type": "generic", "password": "<key>"}\', or run: airflow connections add '
            f"{source.connection} --conn-type generic --conn-password <key>"
        )
    return credential.password


def _folder(source: FlickrSource, access: Access) -> str:
    """Where finished windows are kept: the folder of an earlier try, unless the source has changed since."""
    digest = blake2b(source.model_dump_json().encode(), digest_size=6).hexdigest()
    prefix = f"flickr-{access.partition}-{digest}-"
    name = str(access.cursor.get("flickr_folder") or "")
    if not name.startswith(prefix):
        if name:
            storage.remove_tree(storage.join(access.catalog.staging, name))
        name = prefix + uuid.uuid4().hex[:12]
        access.cursor["flickr_folder"] = name
    return storage.join(access.catalog.staging, name)


def _record(found: Harvest, source: FlickrSource) -> Row:
    """A finished window as its file holds it: rows without label, times in unix seconds."""
    if found.parts is not None:
        return {"parts": found.parts, "queries": found.queries}
    urls = {one: choose_url(photo, source.largest_pixels) for one, photo in found.photos.items()}
    return {
        "parts": None,
        "queries": found.queries,
        "reported": found.reported,
        "duplicate": found.duplicate,
        "missing": found.missing,
        "without_url": sum(url is None for url in urls.values()),
        "rows": [_row(photo, urls[one]) for one, photo in found.photos.items()],
    }


def choose_url(photo: Row, largest_pixels: int) -> str | None:
    """The URL of the largest size that fits, else of the smallest there is; None where there is none."""
    sizes = [
        (_longer_side(photo, size), str(photo[f"url_{size}"]))
        for size in SIZES
        if photo.get(f"url_{size}")
    ]
    fitting = [size for size in sizes if size[0] <= largest_pixels]
    if fitting:
        return max(fitting, key=lambda size: size[0])[1]
    return min(sizes, key=lambda size: size[0])[1] if sizes else None


def _longer_side(photo: Row, size: str) -> int:
    told = [str(photo.get(f"{side}_{size}")) for side in ("width", "height")]
    return max((int(side) for side in told if side.isdecimal()), default=SIZES[size])


def _row(photo: Row, url: str | None) -> Row:
    server, secret = photo.get("server"), photo.get("secret")
    uploaded, licence = str(photo.get("dateupload")), photo.get("license")
    return {
        "uri": url or f"https://live.staticflickr.com/{server}/{photo['id']}_{secret}.jpg",
        "licence": licence if licence is None else licence_code(licence),
        "author": photo.get("ownername") or None,
        "landing_url": f"https://www.flickr.com/photos/{photo.get('owner')}/{photo['id']}",
        "title": photo.get("title") or None,
        "uploaded_at": int(uploaded) if uploaded.isdecimal() else None,
    }


def licence_code(number: int | str) -> str:
    """The code of a licence by Flickr's number, such as CC-BY-2.0 for 4."""
    return LICENCES.get(str(number), f"flickr-licence-{number}")


def _dated(row: Row) -> Row:
    seconds = row["uploaded_at"]
    return {**row, "uploaded_at": seconds and datetime.fromtimestamp(seconds, UTC)}
