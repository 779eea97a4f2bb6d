"""What a person sees: tables and lines while a run works, the summary, the reason of a failure."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sightline import console
from sightline.airflow_client import AirflowClient, Run
from sightline.dataset_run import Failure, Outcome, Row
from sightline.progress import Report
from sightline.status import Champion, ModelRow, Status
from sightline.task_log import TaskLog, find_reason, last_words
from tests.recorded_airflow import RecordedAirflow, serve

LOGS = Path(__file__).parent / "task_logs"
REPORT = Report("featurize", 450, 1797, 56.25, 24)
RUN = Row("ingest_digits", "featurize", "running", 2, 31.4, REPORT)
RETRY = Row("ingest_digits", "featurize", "up_for_retry", 1, 8.0, None, "OSError: disk full")
DONE = Row("ingest_digits", "featurize", "success", 2, 72.0)
CHAMPION = Champion(
    "00008-abc", "2026-11-21", "resnet18-x", {"accuracy": 0.98423}, {"test": 449, "train": 1348}
)
STATUS = Status("digits", 1797, {}, 1797, 1797, {}, {}, CHAMPION, "/data/reports/latest.html")
SUCCEEDED = Outcome(
    Run("ingest_digits", "i", "success"), Run("train_digits", "t", "success"), True, True, []
)


@pytest.fixture
def recorded_log(request: pytest.FixtureRequest) -> Iterator[TaskLog]:
    """A task's log that a real Airflow 3.3.2 has handed out."""
    airflow = RecordedAirflow()
    content = (LOGS / f"{request.param}.json").read_text()
    path = "/api/v2/dags/d/dagRuns/r/taskInstances/t/logs/1"
    airflow.answers[f"GET {path}"] = [(200, json.loads(content))]
    log = TaskLog(Run("d", "r", "failed"), "t", 1)
    with serve(airflow), AirflowClient(airflow.address, "secret") as client:
        log.read_whole(client)
        yield log


def shown(rows: list[Row]) -> str:
    """The live table as text."""
    screen = Console(file=io.StringIO(), width=120, record=True)
    screen.print(console.draw_table(rows, []))
    return screen.export_text()


def printed(*steps: list[Row], say_every_seconds: float = 60) -> list[str]:
    """The plain lines without their time of day."""
    stream = io.StringIO()
    lines = console.PlainLines(Console(file=stream, width=40), say_every_seconds)
    for rows in steps:
        lines.show(rows)
    return [line.split("  ", 1)[1] for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.31, "0.3 s"), (5, "5 s"), (48.2, "48 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"),
     (7800, "2 h 10 min"), (None, "")],
)  # fmt: skip
def test_times_are_written_as_a_person_reads_them(seconds: float | None, text: str) -> None:
    assert console.format_seconds(seconds) == text


def test_a_running_task_shows_its_try_progress_rate_and_time_left() -> None:
    text = shown([RUN])
    assert "ingest_digits" in text
    assert "running (try 2)" in text
    assert "450/1,797 images, 56 images/s, 24 s left" in text
    assert "━" in text  # the bar


def test_a_task_that_will_retry_says_so_and_why() -> None:
    assert "will retry" in shown([RETRY])
    assert "OSError: disk full" in shown([RETRY])
    assert printed([RETRY]) == ["ingest_digits.featurize will retry: OSError: disk full"]


def test_plain_lines_tell_each_change_once_and_unbroken() -> None:
    assert printed([Row("d", "t")], [RETRY], [RETRY], [RUN], [RUN], [DONE]) == [
        "ingest_digits.featurize will retry: OSError: disk full",
        "ingest_digits.featurize running, try 2",
        "ingest_digits.featurize done in 1 min 12 s",
    ]


def test_plain_lines_tell_progress_now_and_then() -> None:
    assert printed([RUN], [RUN], say_every_seconds=0)[1] == (
        "ingest_digits.featurize: 450/1,797 images, 56 images/s, 24 s left"
    )


def test_a_run_that_trained_ends_with_accuracy_counts_version_and_report() -> None:
    assert console.summarize(STATUS, SUCCEEDED, featurized=1797) == [
        "digits: 1,797 images, 0 rejects, 1,797 featurized in this run",
        "accuracy 0.9842 on 449 test images, model 00008-abc",
        "report: /data/reports/latest.html",
    ]


def test_a_run_without_anything_new_says_so_plainly() -> None:
    outcome = Outcome(SUCCEEDED.ingest, SUCCEEDED.train, False, False, [])
    assert console.summarize(STATUS, outcome, featurized=0) == [
        "Nothing new: 0 images featurized, nothing trained; champion 00008-abc (accuracy 0.9842) stays."
    ]


def test_a_model_that_a_person_rejected_is_told_from_one_that_was_never_made() -> None:
    outcome = Outcome(SUCCEEDED.ingest, SUCCEEDED.train, True, False, [])
    assert console.summarize(STATUS, outcome, featurized=0)[1] == (
        "the new model does not serve; accuracy 0.9842 on 449 test images, model 00008-abc"
    )


def test_a_task_that_has_asked_a_person_says_so() -> None:
    row = Row("train_digits", "approve", "awaiting_input", 1, 8.0)
    assert "waits for your answer" in shown([row])
    assert printed([row]) == ["train_digits.approve waits for your answer"]


def test_models_are_listed_with_their_standing() -> None:
    rows = [
        ModelRow("v1", "head", "2026-11-20", 0.91, "champion", ""),
        ModelRow(
            "v2-tuned",
            "fine_tuned",
            "2026-11-21T09:30:12+00:00",
            None,
            "rolled back",
            "by joe: [blurred]",
        ),
    ]
    assert console.describe_models(rows) == [
        "model     kind        accuracy  trained           standing",
        "v1        head        0.9100    2026-11-20        champion",
        "v2-tuned  fine tuned            2026-11-21 09:30  rolled back, by joe: [blurred]",
    ]


def test_a_failed_run_names_the_task_its_reason_and_its_last_lines() -> None:
    failure = Failure("ingest_x", "fetch_images", "No space [left].", ["progress 1/2"])
    failed = Outcome(Run("ingest_x", "i", "failed"), None, False, False, [failure])
    stream = io.StringIO()
    console.tell_failures(Console(file=stream), failed)
    assert stream.getvalue() == (
        "ingest_x.fetch_images failed: No space [left].\n    progress 1/2\n"
    )
    assert not failed.succeeded


@pytest.mark.parametrize(
    ("recorded_log", "reason", "words"),
    [
        ("python_refused", "Dataset digits: the manifest holds 3 rows without a uri; see /tmp/x.",
         ["about to refuse"]),
        ("python_crashed", "KeyError: 'missing'", ["hello on stdout"]),
        ("python_killed", "Process terminated by signal. Likely out of memory error (OOM).", []),
        ("spark_refused", "Weights file x.pth is cut short.",
         ["progress featurize: 2/3 images, 1.0 a second, 1 s left"]),
        ("spark_crashed", "KeyError: \"column 'uri'\"",
         ["progress featurize: 2/3 images, 1.0 a second, 1 s left"]),
    ],
    indirect=["recorded_log"],
)  # fmt: skip
def test_the_reason_of_a_failure_is_found_and_the_rest_is_ours(
    recorded_log: TaskLog, reason: str, words: list[str]
) -> None:
    assert find_reason(recorded_log.lines) == reason
    assert last_words(recorded_log.lines) == words


@pytest.mark.parametrize("recorded_log", ["spark_crashed"], indirect=True)
def test_of_a_killed_spark_job_no_earlier_exception_is_the_reason(recorded_log: TaskLog) -> None:
    lines = [
        replace(line, error=(line.error[0], line.error[1].replace("code is: 1.", "code is: -9.")))
        if line.error
        else line
        for line in recorded_log.lines
    ]
    assert find_reason(lines).startswith("The Spark job was killed")


@pytest.mark.parametrize("recorded_log", ["spark_refused"], indirect=True)
def test_what_the_operator_adds_to_a_jobs_refusal_is_the_reason(recorded_log: TaskLog) -> None:
    sentence = "fine_tune was killed for memory (a training process): its processes held 14.2 GiB."
    lines = [
        replace(line, error=(line.error[0], sentence)) if line.error else line
        for line in recorded_log.lines
    ]
    assert find_reason(lines) == sentence


@pytest.mark.parametrize("recorded_log", ["spark_worker_crashed"], indirect=True)
def test_of_a_crashed_spark_worker_the_exception_is_told_and_no_stack(
    recorded_log: TaskLog,
) -> None:
    assert find_reason(recorded_log.lines) == "ValueError: image 17 has no pixels"
    words = "\n".join(last_words(recorded_log.lines))
    assert "progress featurize" in words
    for noise in ("Traceback", "File ", "at org.apache", "PythonException", "for b in batches"):
        assert noise not in words
