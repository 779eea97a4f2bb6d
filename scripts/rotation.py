#!/usr/bin/env python3
"""Groups of the nightly and chaos_whole tests; each CI run runs one: `rotation.py [list | run [GROUP]]`.

Without a name, the commit chooses: time is cut into slots of a CI run's length, and the slot of the commit's
committer date is the group. SIGHTLINE_CI_GROUP overrides it. See docs/decisions/099-rotating-ci-groups.md.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).parents[1]
MARKERS = ("nightly", "chaos_whole")
SLOT_SECONDS = 75 * 60  # at least as long as a CI run, so that two in a row are in different slots
MOST_MINUTES = 15  # of a group
# `make chaos` asks for more.
SIZES = {"SIGHTLINE_CHAOS_SIZE": "1", "SIGHTLINE_CHAOS_NIGHTS": "9"}


@dataclass(frozen=True)
class Group:
    """Tests that run together, and their minutes on two quiet cores."""

    minutes: float
    tests: tuple[str, ...]  # files, or tests of a file that has others

    def has(self, test: str) -> bool:
        """Whether a test belongs to the group, by its node id."""
        return any(is_part(test, entry) for entry in self.tests)


GROUPS = {
    "backbones": Group(
        12,
        (
            "tests/test_backbone_suite.py",
            "tests/test_car_models_memory.py",
            "tests/test_flowers.py",
        ),
    ),
    "whole-runs": Group(
        13,
        (
            "tests/test_backfill.py",
            "tests/test_emr_airflow.py",
            "tests/test_end_to_end_trainings.py",
        ),
    ),
    "trainings": Group(15, ("tests/test_real_trainings.py",)),
    "cluster-kills": Group(12, ("tests/test_compose_services.py", "tests/chaos/test_cluster.py")),
    "airflow-kills": Group(
        14, ("tests/chaos/test_airflow.py", "tests/chaos/test_backfill_beside_night.py")
    ),
    "soak": Group(11, ("tests/chaos/test_soak.py",)),
    "clock": Group(
        13,
        (
            "tests/chaos/test_clock.py",
            "tests/test_benchmarks_whole.py",
            "tests/test_emr_archive.py",
            "tests/test_featurization.py",
            "tests/test_ingestion.py",
            "tests/test_planted_labels.py",
        ),
    ),
}


def is_part(test: str, entry: str) -> bool:
    """Whether a node id is an entry of a group or below it."""
    return test == entry or test.startswith((f"{entry}::", f"{entry}["))


def find_faults(tests: list[str]) -> list[str]:
    """A sentence for each test that is not in exactly one group."""
    faults = []
    for test in tests:
        names = [name for name, group in GROUPS.items() if group.has(test)]
        if len(names) != 1:
            where = f"the groups {' and '.join(names)}" if names else "no group"
            faults.append(f"{test} is in {where}; put it into one group of scripts/rotation.py")
    return faults


def find_stale(tests: list[str]) -> list[str]:
    """Entries of groups that name none of these tests."""
    entries = [entry for group in GROUPS.values() for entry in group.tests]
    return [entry for entry in entries if not any(is_part(test, entry) for test in tests)]


def group_at(commit_time: int) -> str:
    """The group of a commit with this committer date, in seconds since 1970."""
    return list(GROUPS)[commit_time // SLOT_SECONDS % len(GROUPS)]


def choose() -> tuple[str, str]:
    """The group of this checkout, and why."""
    asked = os.environ.get("SIGHTLINE_CI_GROUP")
    if asked:
        return known(asked), "SIGHTLINE_CI_GROUP asks for it"
    command = ["git", "-C", str(HOME), "log", "-1", "--format=%h %ct"]
    commit, seconds = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.split()
    return group_at(int(seconds)), (
        f"the committer date of {commit} is in slot {int(seconds) // SLOT_SECONDS} of "
        f"{SLOT_SECONDS // 60} minutes, modulo {len(GROUPS)} groups"
    )


def known(name: str) -> str:
    """The name of a group; ends the program if there is none of this name."""
    if name not in GROUPS:
        sys.exit(f"There is no group {name!r}. Choose one of {', '.join(GROUPS)}.")
    return name


def run(name: str, reason: str, more: list[str]) -> None:
    """Become pytest with the group's tests."""
    group = GROUPS[name]
    print(f"Group {name} ({group.minutes:g} minutes): {reason}.", flush=True)
    tests = [str(HOME / test) for test in group.tests]
    command = [sys.executable, "-m", "pytest", "-m", " or ".join(MARKERS), *tests, *more]
    os.chdir(HOME)
    os.execve(sys.executable, command, {**SIZES, **os.environ})


def main() -> None:
    """Run a group, the one that the commit chooses unless one is named; or list all."""
    verb, *rest = sys.argv[1:] or ["list"]
    if verb == "run" and rest and not rest[0].startswith("-"):
        run(known(rest[0]), "it was asked for by name", rest[1:])
    elif verb == "run":
        run(*choose(), rest)
    elif verb == "list":
        chosen, reason = choose()
        for name, group in GROUPS.items():
            print(f"{name:20} {group.minutes:4g} minutes  {' '.join(group.tests)}")
        print(f"This commit runs {chosen}: {reason}.")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
