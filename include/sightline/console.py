"""What a person sees of a run: a live table on a terminal, plain lines elsewhere, a summary at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from sightline.backfill import Backfilled
from sightline.dataset_run import Display, Outcome, Row
from sightline.progress import Report
from sightline.status import ModelRow, Status

WORDS = {  # of Airflow's states, for a person
    None: "",
    "scheduled": "waiting",
    "up_for_retry": "will retry",
    "up_for_reschedule": "waiting",
    "awaiting_input": "waits for your answer",
    "upstream_failed": "not run",
    "success": "done",
}
STYLES = {
    "running": "bold cyan",
    "success": "green",
    "failed": "bold red",
    "up_for_retry": "yellow",
    "awaiting_input": "bold yellow",
    "skipped": "dim",
    "upstream_failed": "dim",
}


class LiveTable:
    """All tasks in a table that is drawn anew while they run."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._told: list[str] = []

    def show(self, rows: list[Row]) -> None:
        """Draw the tasks."""
        self._live.update(draw_table(rows, self._told), refresh=True)

    def tell(self, text: str) -> None:
        """Keep a sentence under the table."""
        self._told.append(text)


class PlainLines:
    """A line for each change, for logs and pipes."""

    def __init__(self, console: Console, say_every_seconds: float = 10) -> None:
        self._console = console
        self._say_every_seconds = say_every_seconds  # of a task's progress
        self._shown: dict[tuple[str, str], tuple[str | None, int]] = {}
        self._said: dict[tuple[str, str], float] = {}

    def show(self, rows: list[Row]) -> None:
        """Print the tasks that have changed, and now and then the progress of those that run."""
        for row in rows:
            key = (row.dag_id, row.task_id)
            if self._shown.get(key, (None, 0)) != (row.state, row.try_number):
                self._shown[key] = (row.state, row.try_number)
                self._said[key] = time.monotonic()
                if row.state not in (None, "scheduled", "queued"):
                    self.tell(describe_row(row))
            elif row.report and time.monotonic() - self._said[key] >= self._say_every_seconds:
                self._said[key] = time.monotonic()
                self.tell(f"{row.dag_id}.{row.task_id}: {describe_report(row.report)}")

    def tell(self, text: str) -> None:
        """Print a sentence with the time of day."""
        self._console.print(f"{datetime.now():%H:%M:%S}  {escape(text)}", soft_wrap=True)


@contextmanager
def open_display(console: Console) -> Iterator[Display]:
    """A live table on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield PlainLines(console)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield LiveTable(live)


def draw_table(rows: list[Row], told: list[str]) -> RenderableType:
    """The tasks as a table: state, try, time, and progress where a task reports it."""
    grid = Grid(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name in ("task", "state", "time", "progress", "note"):
        grid.add_column(name, no_wrap=name != "note")
    shown_dag = ""
    for row in rows:
        if row.dag_id != shown_dag:
            grid.add_row(Text(row.dag_id, style="bold"))
            shown_dag = row.dag_id
        grid.add_row(*_cells(row))
    return Group(grid, *(Text(text, style="dim") for text in told))


def describe_row(row: Row) -> str:
    """A task's state as a sentence."""
    state = WORDS.get(row.state, row.state)
    tries = f", try {row.try_number}" if row.try_number > 1 and row.state == "running" else ""
    seconds = f" in {format_seconds(row.seconds)}" if row.state == "success" else ""
    note = f": {' '.join(row.note.split())}" if row.note else ""
    return f"{row.dag_id}.{row.task_id} {state}{tries}{seconds}{note}"


def describe_report(report: Report) -> str:
    """Progress in words: done, rate, time left."""
    left = format_seconds(report.seconds_left)
    rate = f"{report.per_second:,.0f}" if report.per_second >= 10 else f"{report.per_second:.1f}"
    return f"{report.done:,}/{report.total:,} images, {rate} images/s, {left} left"


def format_seconds(seconds: float | None) -> str:
    """A time as a person reads it: 4.2 s, 48 s, 3 min 05 s, 2 h 10 min."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds != int(seconds) else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return (
        f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
    )


def summarize(status: Status, outcome: Outcome, featurized: int) -> list[str]:
    """The end of a run that went well, in a few lines."""
    champion = status.champion
    if champion and not outcome.trained and featurized == 0:
        return [
            f"Nothing new: 0 images featurized, nothing trained; champion {champion.version} "
            f"(accuracy {_accuracy(status)}) stays."
        ]
    lines = [
        f"{status.dataset}: {status.images:,} images, {sum(status.rejects.values()):,} rejects, "
        f"{featurized:,} featurized in this run"
    ]
    if champion:
        verb = "accuracy" if outcome.published else f"{_unpublished(outcome)}; accuracy"
        tested = champion.rows.get("test")
        on = f" on {tested:,} test images" if tested else ""
        lines.append(f"{verb} {_accuracy(status)}{on}, model {champion.version}")
    if status.report:
        lines.append(f"report: {status.report}")
    return lines


def summarize_backfill(status: Status, done: Backfilled) -> list[str]:
    """The end of a backfill, in a few lines."""
    failed = [run.run_id for run in done.days if not run.is_well]
    lines = [
        f"{status.dataset}: {len(done.days) - len(failed)} of {len(done.days)} days done, "
        f"{status.images:,} images, {sum(status.rejects.values()):,} rejects, "
        f"{len(done.trainings)} runs of the training"
    ]
    if failed:
        more = ", ..." if len(failed) > 5 else ""
        lines.append(f"failed: {', '.join(failed[:5])}{more}; 'make up' shows why in Airflow's UI")
    if status.champion:
        lines.append(f"accuracy {_accuracy(status)}, model {status.champion.version}")
    if status.report:
        lines.append(f"report: {status.report}")
    return lines


def tell_failures(console: Console, outcome: Outcome) -> None:
    """The end of a run that failed: each failed task, why, and its last words."""
    for failure in outcome.failures:
        name = f"{failure.dag_id}.{failure.task_id}"
        console.print(
            f"[bold red]{escape(name)} failed:[/] {escape(failure.reason)}", soft_wrap=True
        )
        for line in failure.lines:
            console.print(f"    {escape(line)}", style="dim", soft_wrap=True)
    if not outcome.failures:
        run = outcome.train or outcome.ingest
        console.print(f"Run {run.run_id} of {run.dag_id} ended as {run.state}.", soft_wrap=True)


def describe_status(status: Status) -> list[str]:
    """A dataset's state, one fact a line."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in status.rejects.items())
    facts = {
        "images": f"{status.images:,}",
        "rejects": f"{sum(status.rejects.values()):,}{f' ({reasons})' if reasons else ''}",
        "features": f"{status.features:,}",
    }
    for name, run in status.last_runs.items():
        if run:
            seconds, task = format_seconds(run.seconds), run.finished_tasks[-1]
            facts[f"last {name}"] = f"{run.started_at}, {seconds} of work, last task {task}"
    champion = status.champion
    facts["champion"] = f"{champion.version} of {champion.created_at}" if champion else "none yet"
    if champion:
        facts["metrics"] = ", ".join(f"{k} {v:.4f}" for k, v in champion.metrics.items())
    versions = [f"{name} {n}" for name, n in status.table_versions.items() if n is not None]
    facts["table versions"] = ", ".join(versions) or "no tables yet"
    facts["report"] = status.report or "none yet"
    return [status.dataset, *(f"  {name:<15} {fact}" for name, fact in facts.items())]


def describe_models(rows: list[ModelRow]) -> list[str]:
    """The models, one a line, oldest first, under a line of headings."""
    lines: list[tuple[str, ...]] = [("model", "kind", "accuracy", "trained", "standing")]
    for row in rows:
        kind, trained = row.kind.replace("_", " "), row.created_at[:16].replace("T", " ")
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.4f}"
        taken_down = f"{row.taken_down:,} of its images taken down" if row.taken_down else ""
        standing = ", ".join(filter(None, (row.standing, row.note, taken_down)))
        lines.append((row.version, kind, accuracy, trained, standing))
    return _columns(lines)


def describe_rejects(rows: list[dict[str, Any]]) -> list[str]:
    """Rejects, one a line, under a line of headings."""
    lines = [("rejected", "reason", "tries", "partition", "uri", "detail")]
    for row in rows:
        when = f"{row['rejected_at']:%Y-%m-%d %H:%M}"
        detail = row["detail"] or ""
        if row["readmitted_by"]:
            detail = f"to be tried again, says {row['readmitted_by']}; {detail}"
        lines.append(
            (when, row["reason"], str(row["attempts"]), row["partition"], row["uri"], detail)
        )
    return _columns([tuple(_printable(cell) for cell in line) for line in lines])


def _columns(lines: list[tuple[str, ...]]) -> list[str]:
    """Lines of cells as text, in columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    padded = [
        [f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)] for line in lines
    ]
    return ["  ".join(line).rstrip() for line in padded]


def _printable(text: str) -> str:
    """Names come from strangers: one that would steer a terminal is shown in quotes."""
    return text if text.isprintable() else repr(text)


def _unpublished(outcome: Outcome) -> str:
    return "the new model does not serve" if outcome.trained else "nothing trained"


def _cells(row: Row) -> list[RenderableType]:
    state = WORDS.get(row.state, row.state) or ""
    if row.try_number > 1 and row.state in ("running", "success", "failed"):
        state = f"{state} (try {row.try_number})"
    progress: RenderableType = ""
    note = " ".join(row.note.split())
    if row.report and row.state == "running":
        progress = ProgressBar(total=row.report.total, completed=row.report.done, width=20)
        note = describe_report(row.report)
    return [
        f"  {row.task_id}",
        Text(state, style=STYLES.get(row.state or "", "")),
        format_seconds(row.seconds),
        progress,
        Text(note),
    ]


def _accuracy(status: Status) -> str:
    accuracy = status.champion.metrics.get("accuracy") if status.champion else None
    return "unknown" if accuracy is None else f"{accuracy:.4f}"
