"""Memory of this machine, as the processes of a job may use it: the installed memory, or less if a container
or a resource limit bounds the process.
"""

import os
import resource
from collections.abc import Iterable
from pathlib import Path

import psutil

GIB = 2**30
# A training process takes a fifth of a machine, or this much of a small one, of which it takes half at most.
TRAINING_SHARE = 5
LEAST_TRAINING_BYTES = 3 * GIB
CGROUP_LIMITS = ("memory.max", "memory.limit_in_bytes")  # of version 2 and of version 1
CGROUP_KILLS = ("memory.events", "memory.oom_control")  # likewise


def total_bytes() -> int:
    """The most that this process and its children can hold."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits = [soft] if soft != resource.RLIM_INFINITY else []
    return min([psutil.virtual_memory().total, *limits, *_cgroup_limits()])


def training_budget(total: int, processes: int) -> int:
    """What each of the training processes of a machine may hold if `limits.memory` is not set."""
    share = max(total // TRAINING_SHARE, min(total // 2, LEAST_TRAINING_BYTES))
    return share // processes


def held_bytes(pids: Iterable[int]) -> int:
    """What processes hold together; pages that several share count once (proportional set size)."""
    return sum(_held(pid) for pid in pids)


def shown(size_bytes: float) -> str:
    """A size for a person: '14.2 GiB', '350 MiB'."""
    if size_bytes >= GIB:
        return f"{size_bytes / GIB:.1f} GiB"
    return f"{max(1, round(size_bytes / 2**20)):,} MiB"


def _held(pid: int) -> int:
    """0 if the process has ended; the resident size if the kernel does not show its shared pages."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return psutil.Process(pid).memory_info().rss
    except (OSError, psutil.Error):
        return 0


def oom_kills() -> int:
    """How many processes the kernel has killed for memory so far: those of this process's control group, or
    those of the whole machine if the group has no counter.
    """
    groups = [_counted(group[0] / name) for group in _cgroups() for name in CGROUP_KILLS]
    counted = [count for count in groups if count is not None]
    return sum(counted) if counted else _counted(Path("/proc/vmstat")) or 0


def _counted(file: Path) -> int | None:
    """The counter `oom_kill` of a file of the kernel's; None if there is no such counter."""
    rows = [line.split() for line in _read(file).splitlines()]
    return next((int(row[1]) for row in rows if row[:1] == ["oom_kill"]), None)


def _cgroup_limits() -> list[int]:
    """The limits of the control groups that this process is in."""
    files = [folder / name for group in _cgroups() for folder in group for name in CGROUP_LIMITS]
    found = [_read(file).strip() for file in files]
    return [int(text) for text in found if text.isdigit()]


def _cgroups() -> list[list[Path]]:
    """The control groups of this process that may bound memory, each with those around it, outwards."""
    found = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup", controllers)
        inside = root / path.lstrip("/")
        around = [folder for folder in inside.parents if folder.is_relative_to(root)]
        found.append([inside, *around])
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0))
