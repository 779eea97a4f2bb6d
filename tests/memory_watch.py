"""Peak memory, and processor time, of all processes that a test has started: those that carry its mark in
their environment, what these start, and whoever shares a session with one of them, also after its parent
has ended.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sightline import memory

INTERVAL_SECONDS = 0.5
UNMEASURED = 10  # samples; so many at most are taken by resident sizes alone
SHOWN = 6  # processes of a peak
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Seen:
    """What /proc/<pid>/stat says of a process."""

    pid: int
    parent: int
    session: int
    started: str  # in clock ticks; tells it apart from a later process with the same id
    rss_bytes: int
    ticks: int  # of processor time


@dataclass
class Peak:
    """The most that all processes held together at one moment, and the largest of them then."""

    size_bytes: int = 0
    processes: list[tuple[int, str]] = field(default_factory=list)  # size, command
    samples: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0  # less what processes took after the last look at them

    def describe(self) -> str:
        """One line for a person."""
        largest = sorted(self.processes, reverse=True)
        listed = ", ".join(f"{what} {memory.shown(size)}" for size, what in largest[:SHOWN])
        others = largest[SHOWN:]
        more = (
            f", {len(others)} more {memory.shown(sum(one for one, _ in others))}" if others else ""
        )
        took = f"{self.seconds:.0f} s, {self.processor_seconds:.0f} s of processor time"
        return f"{took}, peak {memory.shown(self.size_bytes)} ({listed}{more})"


class MemoryWatch:
    """Samples the processes twice a second, in a thread, until it is closed.

    The test's own process does not count: pytest holds every test module that it has collected, torch too.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark.encode()  # such as NAME=value
        self._members: dict[tuple[int, str], bool] = {}
        self._ticks: dict[tuple[int, str], int] = {}
        self._measured: tuple[int, dict[int, int]] = (0, {})  # in all, and each one's resident size
        self._peak = Peak()
        self._sampling = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_on)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def measured(self) -> Iterator[Peak]:
        """The peak within the block."""
        self.sample()
        peak, began, ticks = Peak(), time.monotonic(), sum(self._ticks.values())
        self._peak = peak
        try:
            yield peak
        finally:
            self.sample()
            self._peak = Peak()
            peak.seconds = time.monotonic() - began
            peak.processor_seconds = (sum(self._ticks.values()) - ticks) / TICKS_A_SECOND

    def members(self) -> list[Seen]:
        """The processes that count now."""
        seen = [one for path in Path("/proc").glob("[0-9]*") if (one := _look(path))]
        known = {(one.pid, one.started): self._is_marked(one) for one in seen}
        own = os.getsid(0)
        while True:
            pids = {one.pid for one in seen if known[one.pid, one.started]}
            sessions = {one.session for one in seen if one.pid in pids} - {own}
            joining = [
                one
                for one in seen
                if one.pid not in pids and (one.parent in pids or one.session in sessions)
            ]
            if not joining:
                break
            known.update({(one.pid, one.started): True for one in joining})
        self._members = known
        return [one for one in seen if known[one.pid, one.started]]

    def _is_marked(self, one: Seen) -> bool:
        if self._members.get((one.pid, one.started)):
            return True
        try:
            return self._mark in Path(f"/proc/{one.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    def _sample_on(self) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            self.sample()

    def sample(self) -> None:
        """Look once more, now."""
        with self._sampling:
            self._look_at(self.members(), self._peak)

    def _look_at(self, members: list[Seen], peak: Peak) -> None:
        peak.samples += 1
        self._ticks.update({(one.pid, one.started): one.ticks for one in members})
        if peak.samples % UNMEASURED and self._at_most(members) <= peak.size_bytes:
            return
        held = [(memory.held_bytes([one.pid]), one) for one in members]
        total = sum(size for size, _ in held)
        self._measured = total, {one.pid: one.rss_bytes for one in members}
        if total > peak.size_bytes:
            peak.size_bytes = total
            peak.processes = [(size, _command(one.pid)) for size, one in held]

    def _at_most(self, members: list[Seen]) -> int:
        """What they can hold by now: resident sizes cost nothing to read, shared pages a twentieth of a
        second a gigabyte."""
        total, then = self._measured
        return total + sum(max(0, one.rss_bytes - then.get(one.pid, 0)) for one in members)


def _look(folder: Path) -> Seen | None:
    try:
        text = (folder / "stat").read_text()
    except OSError:  # it has ended
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold spaces
    return Seen(
        pid=int(folder.name),
        parent=int(fields[1]),
        session=int(fields[3]),
        started=fields[19],
        rss_bytes=int(fields[21]) * PAGE_BYTES,
        ticks=int(fields[11]) + int(fields[12]),
    )


def _command(pid: int) -> str:
    """What a person calls the process: its program, and for Python the script or module."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "ended"
    if "-c" in words:
        return "python -c"
    names = [Path(word).name for word in words if word and not word.startswith("-")]
    scripts = [name for name in names if name.endswith(".py")]
    if names and names[0] == "java":
        return f"java {scripts[-1] if scripts else ''}".strip()
    return " ".join(scripts[-1:] or names[:2])[:40] or "?"
