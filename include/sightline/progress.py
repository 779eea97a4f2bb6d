"""Progress of long work: one line every few seconds with done, total, rate and time left.

The line is the only channel: it stands in the task's log, and the console reads it back from there, so
both work wherever Airflow keeps its logs.
"""

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger(__name__)

LINE = re.compile(
    r"progress (?P<stage>\w+): (?P<done>\d+)/(?P<total>\d+) images, "
    r"(?P<rate>[\d.]+) a second, (?P<left>\d+) s left"
)


@dataclass(frozen=True)
class Report:
    """One progress line, read back."""

    stage: str
    done: int
    total: int
    per_second: float
    seconds_left: int


class Progress:
    """Counts finished images from several threads and logs a line at most every few seconds."""

    def __init__(self, stage: str, total: int, every_seconds: float = 2.0) -> None:
        self.stage = stage
        self.total = total
        self.every_seconds = every_seconds
        self.done = 0
        self.note = ""  # told at the line's end
        self._started = time.monotonic()
        self._logged = -math.inf
        self._lock = threading.Lock()

    def add(self, images: int) -> None:
        """Count images as done."""
        with self._lock:
            self.done += images
            now = time.monotonic()
            if now - self._logged >= self.every_seconds or self.done >= self.total:
                self._tell(now)

    @contextmanager
    def following(self, count: Callable[[], int]) -> Iterator[None]:
        """While in the block, tell every few seconds how many images `count` says are done."""
        is_over = threading.Event()

        def follow() -> None:
            while not is_over.wait(self.every_seconds):
                self.done = min(count(), self.total)
                if self.done:
                    self._tell(time.monotonic())

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
            self.done = self.total
        finally:
            is_over.set()
            thread.join()
        if self.total:
            self._tell(time.monotonic())

    def _tell(self, now: float) -> None:
        self._logged = now
        line = format_line(self.stage, self.done, self.total, now - self._started)
        log.info("%s (%s)" if self.note else "%s%s", line, self.note)


def format_line(stage: str, done: int, total: int, seconds: float) -> str:
    """The line for the log; `parse_line` reads it back."""
    rate = done / seconds if seconds > 0 else 0.0
    left = round((total - done) / rate) if rate > 0 else 0
    return f"progress {stage}: {done}/{total} images, {rate:.1f} a second, {left} s left"


def parse_line(text: str) -> Report | None:
    """The last progress report in a piece of log, or None."""
    found = None
    for found in LINE.finditer(text):  # noqa: B007  (the last one counts)
        pass
    if found is None:
        return None
    return Report(
        found["stage"],
        int(found["done"]),
        int(found["total"]),
        float(found["rate"]),
        int(found["left"]),
    )
