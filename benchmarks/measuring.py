"""What every benchmark needs: a command's seconds and peak memory, rounds in turns, results as JSON."""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil

from sightline.settings import load_settings

HOME = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PEERS = load_settings().state / "peers"  # made by `make bench`, as the next
PEERS_FETCH = load_settings().state / "peers-fetch"
SAMPLE_SECONDS = 0.5
# What makes networks fast: the width of its vectors, bf16 in vectors and in tiles, 8-bit integers.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_vnni")
OURS = ("pyspark", "torch", "torchvision", "pillow", "pyarrow", "deltalake", "numpy")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Run:
    """What a command took, from its start to its end, and what it said."""

    seconds: float
    peak_bytes: int
    said: str


def run(command: Iterable[object], environment: Mapping[str, str], folder: Path) -> Run:
    """Run a command in a folder; a failure ends the benchmark with the end of what it said."""
    words = [str(word) for word in command]
    log = folder / "command.log"
    with log.open("wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            words, env=dict(environment), stdout=output, stderr=subprocess.STDOUT, cwd=folder
        )
        sampler = PeakMemory(process.pid)
        process.wait()
        seconds = time.monotonic() - began
    said = log.read_text(errors="replace")
    if process.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{said[-3000:]}")
    return Run(seconds, sampler.stop(), said)


class PeakMemory:
    """The most that a process and its children hold together at a moment, sampled in a thread."""

    def __init__(self, pid: int) -> None:
        self._top = psutil.Process(pid)
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, held_bytes(self._top))


def held_bytes(top: psutil.Process) -> int:
    """Bytes of a process and its children as PSS: a page that several share counts once."""
    total = 0
    try:
        processes = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it has ended meanwhile
    return total


def in_turns(ways: Mapping[str, Callable[[], Found]], rounds: int) -> dict[str, list[Found]]:
    """Run every way once a round, so that a machine's bad minute falls on all of them alike."""
    found: dict[str, list[Found]] = {name: [] for name in ways}
    for number in range(1, rounds + 1):
        for name, way in ways.items():
            found[name].append(way())
            print(f"round {number} of {rounds}, {name}: {found[name][-1]}"[:300], flush=True)
    return found


def median(values: Iterable[float]) -> float:
    """The median; figures are given as such, with the number of rounds beside them."""
    return statistics.median(values)


def parse_arguments(about: str, **numbers: int) -> argparse.Namespace:
    """The command line of a benchmark: its numbers with their defaults, and where its results go."""
    return add_arguments(argparse.ArgumentParser(description=about.splitlines()[0]), **numbers)


def add_arguments(parser: argparse.ArgumentParser, **numbers: int) -> argparse.Namespace:
    """As `parse_arguments`, for a benchmark with options of its own."""
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON file goes")
    parser.add_argument("--workplace", type=Path, default=workplace(), help="for photos and tables")
    asked = parser.parse_args()
    for name, value in vars(asked).items():
        if isinstance(value, Path):
            setattr(asked, name, value.absolute())  # commands run in folders of their own
    return asked


def workplace() -> Path:
    """Where benchmarks keep photos and tables."""
    return load_settings().state / "benchmarks"


def write_results(
    folder: Path, rows: list[dict[str, Any]], versions: Mapping[str, str], **facts: Any
) -> None:
    """Write the results of the benchmark that is running, and print them."""
    name = Path(sys.argv[0]).stem
    written = {
        "name": name,
        "command": _command(name),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **versions},
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **facts,
        "rows": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(written, indent=2) + "\n")
    for row in rows:
        print(row)


def machine() -> dict[str, Any]:
    """The machine, as far as it matters to the figures."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.+)$", text, re.MULTILINE)
    has = set(flags[1].split()) if flags else set()
    return {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "flags": [flag for flag in FLAGS if flag in has],
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def core(number: int) -> int:
    """One of these cores, as the system names it; beyond their number they begin anew."""
    ours = sorted(os.sched_getaffinity(0))
    return ours[number % len(ours)]


def versions_of(packages: Iterable[str], python: str | Path = sys.executable) -> dict[str, str]:
    """Versions of packages in an interpreter's environment; those that it has not are left out."""
    code = (
        "import json, sys\nfrom importlib.metadata import PackageNotFoundError, version\nfound = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = version(name)\n    except PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    command = [str(python), "-c", code, *packages]
    found: dict[str, str] = json.loads(
        subprocess.run(command, capture_output=True, check=True).stdout
    )
    return found


def our_versions() -> dict[str, str]:
    """Versions of Sightline, by its commit, and of what it stands on."""
    git = ["git", "-C", str(HOME)]
    asked = [*git, "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    # The results and the page change while benchmarks run.
    code = [*git, "diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results", ":!docs"]
    if commit and subprocess.run(code, capture_output=True, check=False).returncode:
        commit += " and changes"
    return {"sightline": commit or "unknown", **versions_of(OURS)}


def _command(name: str) -> str:
    """How to repeat the run; folders of this machine are not part of it."""
    told = " ".join(["", *sys.argv[1:]])
    options = re.sub(r" --(results|workplace|peers)[ =]\S+", "", told)
    return f".venv/bin/python -m benchmarks.{name}{options}"
