"""Progress: the line in the log says what was done, and the console reads it back."""

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.progress import Progress, Report, format_line, parse_line


@given(
    stage=st.from_regex(r"[a-z_]{1,20}", fullmatch=True),
    total=st.integers(1, 10**9),
    share=st.floats(0, 1),
    seconds=st.floats(0.001, 10**6),
)
def test_a_line_is_read_back_as_it_was_written(
    stage: str, total: int, share: float, seconds: float
) -> None:
    done = round(total * share)
    line = format_line(stage, done, total, seconds)
    report = parse_line(f"[2026-11-05T03:00:00] INFO - {line}\n")
    assert report is not None
    assert (report.stage, report.done, report.total) == (stage, done, total)
    assert report.per_second == pytest.approx(done / seconds, abs=0.051)


def test_a_line_tells_rate_and_time_left() -> None:
    line = format_line("featurize", 300, 1200, 10.0)
    assert line == "progress featurize: 300/1200 images, 30.0 a second, 30 s left"
    assert parse_line(line) == Report("featurize", 300, 1200, 30.0, 30)


def test_nothing_done_and_no_time_passed_are_no_division_by_zero() -> None:
    assert parse_line(format_line("fetch_images", 0, 5, 0.0)) == Report("fetch_images", 0, 5, 0, 0)
    assert parse_line(format_line("fetch_images", 0, 0, 1.0)) == Report("fetch_images", 0, 0, 0, 0)


def test_the_last_of_many_lines_counts() -> None:
    lines = [format_line("train", done, 3, 1.0) for done in (1, 2, 3)]
    report = parse_line("\n".join([*lines, "something else"]))
    assert report is not None
    assert report.done == 3


def test_other_words_are_no_progress() -> None:
    assert parse_line("") is None
    assert parse_line("progress is being made: 3/4 done") is None


def test_images_counted_by_many_threads_are_all_counted(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress("featurize", 8000, every_seconds=0.0)
    with caplog.at_level(logging.INFO, logger="sightline.progress"):
        threads = [
            threading.Thread(target=lambda: [progress.add(1) for _ in range(1000)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert progress.done == 8000
    done = [report.done for report in map(parse_line, caplog.messages) if report is not None]
    assert done == list(range(1, 8001))


def test_lines_are_seconds_apart_but_the_end_is_always_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    progress = Progress("featurize", 100, every_seconds=3600.0)
    with caplog.at_level(logging.INFO, logger="sightline.progress"):
        for _ in range(100):
            progress.add(1)
    reports = [parse_line(message) for message in caplog.messages]
    assert [report.done for report in reports if report is not None] == [1, 100]
