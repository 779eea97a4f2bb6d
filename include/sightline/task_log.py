"""A task's log as a person wants it: its progress, the reason of a failure, its last words.

Airflow hands out every line as JSON with the task's whole identity, between lines of its own; a Spark job
adds the JVM's stack traces. What is left here is what our code and its libraries have said.
"""

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from sightline.airflow_client import AirflowClient, LogLine, Run
from sightline.progress import Report, parse_line

REFUSED = "sightline refused: "  # what a Spark job writes before the sentence of a SightlineError
KEPT_LINES = 2_000

# Loggers whose lines speak of Airflow's work, not of ours.
AIRFLOW_LOGGERS = ("airflow.dag_processing", "airflow.providers.openlineage", "openlineage")
NOISE = re.compile(
    r"^(::(end)?group::|at [\w.$/]+\(|\.\.\. \d+ more|SQLSTATE: |[\^~ ]+$|Spark-Submit cmd: |"
    r"WARNING: Using incubator modules|Closing down clientserver|Worker startup parse complete|"
    r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d (INFO|WARN) |"
    r"Setting default log level|Setting Spark log level|To adjust logging level|"
    r"Using Spark's default log4j|JVM stacktrace:|Driver stacktrace:|$)"
)
EXCEPTION = re.compile(
    r"^(?:\w+\.)*([A-Z]\w*(?:Error|Exception|Failed|Interrupt|Exit))(?:: (.*))?$"
)
WRAPPERS = ("PythonException", "Py4JJavaError", "SparkException", "AirflowException")


@dataclass
class TaskLog:
    """The log of one try of a task, read bit by bit."""

    run: Run
    task_id: str
    try_number: int
    lines: deque[LogLine] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    report: Report | None = None
    is_whole: bool = False
    _token: str | None = None

    def read_on(self, client: AirflowClient) -> None:
        """Read what has been written since the last time."""
        fresh, token = client.read_log(self.run, self.task_id, self.try_number, self._token)
        self._token = token or self._token
        self.lines.extend(fresh)
        for line in fresh:
            self.report = parse_line(line.text) or self.report

    def read_whole(self, client: AirflowClient) -> None:
        """Read the log from its beginning, now that it is complete."""
        self.lines.clear()
        self._token = None
        self.read_on(client)
        self.is_whole = True


def find_reason(lines: Iterable[LogLine]) -> str:
    """Why the task failed, in one sentence."""
    lines = list(lines)
    failures = [line.error for line in lines if line.error]
    refusals = [line.text for line in lines if line.text.startswith(REFUSED)]
    if refusals and (not failures or failures[-1][0] != "AirflowFailException"):
        return refusals[-1].removeprefix(REFUSED).strip()
    if not failures:
        loud = [line.text for line in lines if line.level in ("error", "critical")]
        return loud[-1].split(" For more information")[0] if loud else "its log gives no reason"
    kind, text = failures[-1]
    if "Cannot execute: spark-submit" in text:
        return _spark_reason(lines, text)
    if kind == "AirflowFailException":  # a refusal, written for a person
        return text.strip()
    return f"{kind}: {text.strip().split(chr(10))[0]}"


def last_words(lines: Iterable[LogLine], count: int = 12) -> list[str]:
    """The last lines that our code wrote: without Airflow's, stack traces, and the reason itself."""
    lines = list(lines)
    reason = find_reason(lines)
    kept: list[str] = []
    in_traceback = False
    for line in lines:
        text = line.text.rstrip()
        in_traceback = in_traceback and not EXCEPTION.match(text)
        if "Traceback (most recent call last)" in text:
            in_traceback = True
        elif not in_traceback and not _is_noise(line) and reason not in text:
            if kept and parse_line(text) and parse_line(kept[-1]):
                kept.pop()  # of the progress, the last line tells all
            kept.append(text)
    return kept[-count:]


def _spark_reason(lines: list[LogLine], text: str) -> str:
    """What ended a Spark job: the kill, or the exception in the job's own output."""
    code = re.search(r"Error code is: (-?\d+)", text)
    if code and int(code[1]) in (-9, 137):  # whatever it has warned of before
        return "The Spark job was killed by signal 9."  # for memory, the operator would say so
    for line in reversed(lines):
        found = EXCEPTION.match(line.text.strip())
        if found and found[2] and found[1] not in WRAPPERS:
            return f"{found[1]}: {found[2]}"
    return f"The Spark job ended with code {code[1] if code else 'unknown'} and gave no reason."


def _is_noise(line: LogLine) -> bool:
    own = line.logger == "task" and line.error is None and line.level == "info"
    return bool(
        own
        or line.error is not None  # told as the reason already
        or not line.logger  # Airflow's own list of sources
        or line.logger.startswith(AIRFLOW_LOGGERS)
        or NOISE.match(line.text.strip())
        or any(f"{wrapper}: " in line.text for wrapper in WRAPPERS)
    )
