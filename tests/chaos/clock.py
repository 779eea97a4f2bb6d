"""A machine's clock that jumps: what a library, loaded before all others (clock.c), tells the processes that
are started with its environment, Spark's JVM included.

libfaketime does the same, but with it Python's time.sleep fails, or what waits would wait for days.
"""

import os
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster_processes import meanwhile

SOURCE = Path(__file__).with_name("clock.c")
DAY_SECONDS = 86_400


@dataclass
class Clock:
    """What processes take for the time: the true one and some days."""

    folder: Path
    days: list[tuple[float, int]] = field(
        default_factory=list
    )  # by how many it was fast, since when

    @property
    def environment(self) -> dict[str, str]:
        """By which a process gets this clock."""
        return {"LD_PRELOAD": str(self._library), "SIGHTLINE_CLOCK": str(self._file)}

    def build(self) -> None:
        """Compile the library; the clock is right at first."""
        self.folder.mkdir()
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        self._file.write_bytes(struct.pack("q", 0))

    def jump(self, days: int) -> None:
        """Be fast by so many days from now on."""
        self.days.append((time.time(), days))
        with self._file.open("r+b") as stream:  # the same file: processes look into it
            stream.write(struct.pack("q", days * DAY_SECONDS))

    def stamp(self, folder: Path, since: float) -> None:
        """Give what was written since a moment the times that a disk of this machine would have given it."""
        for path in filter(Path.is_file, folder.rglob("*")):
            written_at = path.stat().st_mtime
            if written_at >= since:
                at = written_at + self._days_at(written_at) * DAY_SECONDS
                os.utime(path, (at, at))

    @contextmanager
    def jumping(self, output: Path, text: str, days: int) -> Iterator[None]:
        """Within the block, it jumps once an output holds a text."""

        def watch(over: threading.Event) -> None:
            while not over.wait(0.05):
                if output.exists() and text in output.read_text():
                    self.jump(days)
                    return

        with meanwhile(watch):
            yield

    def _days_at(self, moment: float) -> int:
        return next((days for since, days in reversed(self.days) if since <= moment), 0)

    @property
    def _library(self) -> Path:
        return self.folder / "clock.so"

    @property
    def _file(self) -> Path:
        return self.folder / "seconds"


def missing_part() -> str | None:
    """What a machine lacks for such a clock, or None."""
    return None if shutil.which("cc") else "there is no C compiler (cc) on this machine"
