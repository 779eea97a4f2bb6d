"""No suite rots: every nightly and chaos_whole test is in exactly one group of CI's rotation."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import rotation
from tests.conftest import LONG_TESTS

PROGRAM = Path(rotation.__file__)


def test_every_long_test_is_in_exactly_one_group(request: pytest.FixtureRequest) -> None:
    """All that this session has collected, which `make test` does of the whole folder."""
    assert rotation.find_faults(request.config.stash[LONG_TESTS]) == []


def test_every_entry_of_a_group_names_a_long_test(request: pytest.FixtureRequest) -> None:
    if request.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        pytest.skip("only some files were collected; `make test` collects all")
    assert rotation.find_stale(request.config.stash[LONG_TESTS]) == []


def test_a_test_in_no_group_or_in_two_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    soak = "tests/chaos/test_soak.py::test_thirty_nights"
    assert rotation.find_faults([soak]) == []
    [fault] = rotation.find_faults(["tests/test_new.py::test_new"])
    assert fault.startswith("tests/test_new.py::test_new is in no group; put it into one group of")
    again = rotation.Group(1, ("tests/chaos/test_soak.py::test_thirty_nights",))
    monkeypatch.setitem(rotation.GROUPS, "again", again)
    [fault] = rotation.find_faults([soak])
    assert fault.startswith(f"{soak} is in the groups soak and again;")


def test_an_entry_without_tests_is_found() -> None:
    entries = [entry for group in rotation.GROUPS.values() for entry in group.tests]
    assert rotation.find_stale([f"{one}::test" for one in entries[1:]]) == entries[:1]


def test_consecutive_slots_run_consecutive_groups() -> None:
    first = 1_800_000_000
    times = [first + number * rotation.SLOT_SECONDS for number in range(2 * len(rotation.GROUPS))]
    found = [rotation.group_at(time) for time in times]
    assert sorted(found) == sorted([*rotation.GROUPS, *rotation.GROUPS])
    assert all(one != other for one, other in zip(found, found[1:], strict=False))


def test_no_group_is_longer_than_ci_has_room_for() -> None:
    assert all(group.minutes <= rotation.MOST_MINUTES for group in rotation.GROUPS.values())


@pytest.mark.parametrize("verb", ["list", "run"])
def test_an_unknown_group_is_refused_with_the_known_ones(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_CI_GROUP", "sock")
    done = subprocess.run(
        [sys.executable, PROGRAM, verb], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"There is no group 'sock'. Choose one of {next(iter(rotation.GROUPS))}," in done.stderr


def test_the_environment_overrides_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    name, reason = rotation.choose()
    assert name in rotation.GROUPS
    assert "committer date" in reason
    monkeypatch.setenv("SIGHTLINE_CI_GROUP", "soak")
    assert rotation.choose() == ("soak", "SIGHTLINE_CI_GROUP asks for it")
