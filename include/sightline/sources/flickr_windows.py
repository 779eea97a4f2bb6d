"""Listing a search whole although only its first 4,000 photos are real: windows of upload time, split.

Whoever asks Flickr, and whoever keeps what was found, is handed in.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

MOST_PHOTOS = 4_000  # of one search; later pages repeat earlier ones
PHOTOS_PER_PAGE = 500
# What a part of a split window should hold: uploads come in bursts, so parts differ.
PHOTOS_PER_PART = 3_000
TRIES = 2  # of a window that comes up short
WINDOWS_TOLD = 100

Row = dict[str, Any]


@dataclass(frozen=True)
class Window:
    """A half-open span of upload time, in unix seconds."""

    start: int
    end: int

    @property
    def seconds(self) -> int:
        """How long it is."""
        return self.end - self.start

    def split(self, parts: int) -> list["Window"]:
        """The window in equal parts, to the second."""
        edges = [self.start + self.seconds * part // parts for part in range(parts + 1)]
        return [Window(start, end) for start, end in zip(edges, edges[1:], strict=False)]


@dataclass(frozen=True)
class Page:
    """One answer: what the search says it holds in all, and a page of it."""

    total: int
    photos: list[Row]


@dataclass
class Harvest:
    """What was found in one window: its photos by id, or in how many parts it has to be asked."""

    reported: int = 0
    duplicate: int = 0
    queries: int = 0
    photos: dict[str, Row] = field(default_factory=dict)
    parts: int | None = None

    @property
    def missing(self) -> int:
        """Photos that are said to be there and were not handed out."""
        return max(0, self.reported - len(self.photos))

    @property
    def is_short(self) -> bool:
        """Whether another try may find more."""
        return len(self.photos) < min(self.reported, MOST_PHOTOS)


Ask = Callable[[Window, int], Page]


def harvest_window(ask: Ask, window: Window) -> Harvest:
    """Ask for every page of a window; stop where it is to be split.

    Once more where photos are missing, or may be: those that vanish meanwhile move others to earlier pages.
    """
    found = Harvest()
    for _ in range(TRIES):
        is_steady = _read_pages(ask, window, found)
        if found.parts is not None or (is_steady and not found.is_short):
            break
    return found


def _read_pages(ask: Ask, window: Window, found: Harvest) -> bool:
    """Add what one pass over the pages finds; whether what the search says it holds stayed the same."""
    seen, totals = set[str](), set[int]()
    for page in range(1, MOST_PHOTOS // PHOTOS_PER_PAGE + 1):
        answer = ask(window, page)
        found.queries += 1
        found.reported = answer.total
        totals.add(answer.total)
        if answer.total > MOST_PHOTOS and window.seconds > 1:
            found.parts = min(window.seconds, max(2, -(-answer.total // PHOTOS_PER_PART)))
            break
        for photo in answer.photos:
            found.duplicate += photo["id"] in seen
            seen.add(photo["id"])
            found.photos[photo["id"]] = photo
        if not answer.photos or page * PHOTOS_PER_PAGE >= answer.total:
            break
    return len(totals) == 1


def walk_windows(window: Window, harvest: Callable[[Window], Row]) -> Iterator[tuple[Window, Row]]:
    """Yield each window that did not have to be split, in the order of time, with its record.

    `harvest` hands out a window's record, kept or new; `parts` in it says how often to split.
    """
    waiting = [window]
    while waiting:
        window = waiting.pop()
        record = harvest(window)
        if record["parts"] is None:
            yield window, record
        else:
            waiting.extend(reversed(window.split(record["parts"])))


class Tally:
    """Counts what the windows of all classes hold, and lets each photo through once."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.classes: dict[str, Counter[str]] = {}
        self.windows: list[Row] = []
        self.queries = 0  # that lie behind the windows so far, those of earlier tries included
        self._earlier = set[str]()  # uris that classes before this one have
        self._here = set[str]()
        self._label = ""

    def start_class(self, label: str) -> None:
        """What follows was found by this class's search."""
        self._earlier |= self._here
        self._here = set()
        self._label = label
        self.classes[label] = Counter()

    def add(self, window: Window, record: Row) -> list[Row]:
        """Count a window; the rows of it that no window and no class before it has."""
        here = {row["uri"]: row for row in record["rows"] if row["uri"] not in self._here}
        new = [row for uri, row in here.items() if uri not in self._earlier]
        repeated = len(record["rows"]) - len(here)
        counts = {
            "reported": record["reported"],
            "unique": len(here),
            "duplicate": record["duplicate"] + repeated,
            "missing": record["missing"] + repeated,
        }
        more = {"without_url": record["without_url"], "several_classes": len(here) - len(new)}
        for counter in (self.totals, self.classes[self._label]):
            counter.update(counts | more)
        place = {"class": self._label, "start": window.start, "end": window.end}
        self.windows.append(place | counts)
        self._here.update(here)
        return new

    def metrics(self) -> Row:
        """The numbers for the run's record; of many windows, those that lack most."""
        windows = sorted(self.windows, key=lambda window: -window["missing"])[:WINDOWS_TOLD]
        return {
            **dict(self.totals),
            "completeness": self.completeness,
            "queries": self.queries,
            "classes": {label: dict(counts) for label, counts in self.classes.items()},
            "windows": windows,
        }

    @property
    def completeness(self) -> float:
        """The part of the reported photos that was found."""
        reported = self.totals["reported"]
        return 1 - self.totals["missing"] / reported if reported else 1.0

    def __str__(self) -> str:
        unique, reported = self.totals["unique"], self.totals["reported"]
        return f"{unique} of {reported} photos, {self.completeness:.2%}, in {self.queries} queries"


class Telling:
    """Logs how far a harvest has come, every few seconds."""

    def __init__(
        self, partition: str, day: Window, classes: int, every_seconds: float = 2.0
    ) -> None:
        self._partition, self._day, self._classes = partition, day, classes
        self._every_seconds = every_seconds
        self._started = self._told = time.monotonic()

    def say(self, number: int, window: Window, tally: Tally) -> None:
        """Class `number` has been harvested up to the end of this window."""
        now = time.monotonic()
        if now - self._told < self._every_seconds:
            return
        self._told = now
        part = (number + (window.end - self._day.start) / self._day.seconds) / self._classes
        left = (now - self._started) * (1 - part) / part
        form = "harvest of %s: %.0f %% of the searches, %s, %.0f s left"
        log.info(form, self._partition, 100 * part, tally, left)
