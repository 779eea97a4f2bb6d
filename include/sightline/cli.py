"""The `sightline` command: run a dataset, look at it, keep an Airflow up."""

import argparse
import getpass
import json
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType

from sightline import (
    airflow_environment,
    connection_commands,
    console,
    dataset_run,
    ledger,
    lineage_commands,
    local_airflow,
    maintenance_commands,
    planning_commands,
    rights_commands,
    serving_commands,
    status,
)
from sightline.airflow_client import AirflowClient
from sightline.airflow_environment import USER
from sightline.airflow_server import Server, broken_part
from sightline.airflow_start import migrate_database
from sightline.backfill import Backfill
from sightline.catalog import open_catalog
from sightline.command_output import FAILED, INTERRUPTED, OK, REFUSED, Command, err, out, say
from sightline.config import DatasetSpec, check_known, dataset_files, load_dataset
from sightline.connections import from_environment
from sightline.dataset_run import DatasetRun, Outcome
from sightline.errors import AirflowUnavailable, ConfigError, SightlineError
from sightline.settings import Settings, load_settings
from sightline.sources.access import Access

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    listen_to_signals()
    asked = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return int(asked.command(asked))
    except KeyboardInterrupt:
        say("Stopped; nothing of this command is left running.", err)
        return INTERRUPTED
    except SightlineError as error:
        say(str(error), err)
        return REFUSED if isinstance(error, ConfigError) else FAILED
    except Exception as error:  # the last resort: a person gets a line, the details lie in a file
        if asked.debug:
            raise
        details = load_settings().state / "error.log"
        details.parent.mkdir(parents=True, exist_ok=True)
        details.write_text(traceback.format_exc())
        say(f"Unexpected {type(error).__name__}: {error}", err)
        say(f"Details: {details} (or run it again with --debug)", err)
        return FAILED


def run(asked: argparse.Namespace) -> int:
    """Ingest a dataset and train on it, in the local Airflow."""
    return _run(load_dataset(asked.dataset), asked.partition)


def demo(asked: argparse.Namespace) -> int:
    """Run the dataset that is built in."""
    say("digits: 1,797 scanned handwritten digits become a classifier; no download, no account.")
    return _run(load_dataset("digits"), None)


def backfill(asked: argparse.Namespace) -> int:
    """Ingest many days of a dataset, and train once they are there."""
    spec, began = load_dataset(asked.dataset), time.monotonic()
    first, last = _day(asked.first), _day(asked.last)
    if last < first:
        raise ConfigError(f"The backfill ends on {last}, before it begins on {first}.")
    if not spec.schedule:
        raise ConfigError(
            f"Dataset {spec.name} has no schedule, and Airflow backfills scheduled DAGs only; "
            "give it one, such as schedule: '0 0 * * *'."
        )
    with _airflow(spec) as (settings, server, client), console.open_display(out) as display:
        broken = partial(broken_part, settings, server)
        run = DatasetRun(spec.name, client, display, broken)
        done = Backfill(run, client, display, first, last).execute(
            "completed" if asked.again else "failed", _fresh_parse(settings, spec, server)
        )
    for line in console.summarize_backfill(status.read_status(spec.name), done):
        say(line)
    say(f"Finished in {console.format_seconds(time.monotonic() - began)}.")
    return OK if done.succeeded else FAILED


def airflow(asked: argparse.Namespace) -> int:
    """Airflow's own command, on the local Airflow."""
    settings = load_settings()
    migrate_database(settings)
    server = local_airflow.running_server(settings)
    environment = airflow_environment.airflow_environment(settings, server.port if server else 8080)
    program = Path(sys.executable).with_name("airflow")
    os.execve(program, [str(program), *asked.arguments], environment)


def check(asked: argparse.Namespace) -> int:
    """The preflight alone."""
    spec = load_dataset(asked.dataset)
    for fact in _preflight(spec, _partition(spec, asked.partition)):
        say(fact)
    return OK


def show_status(asked: argparse.Namespace) -> int:
    """What is there of one dataset, or of each."""
    names = [path.stem for path in dataset_files()]
    if asked.dataset:
        check_known(asked.dataset)
    found = [status.read_status(name) for name in names if asked.dataset in (None, name)]
    if asked.json:
        value = [one.as_json() for one in found]
        out.print_json(json.dumps(value[0] if asked.dataset else value))
    else:
        for one in found:
            say("\n".join(console.describe_status(one)))
    return OK


def show_models(asked: argparse.Namespace) -> int:
    """Every model of a dataset, and which one serves."""
    check_known(asked.dataset)
    rows = status.list_models(asked.dataset)
    if asked.json:
        out.print_json(json.dumps([asdict(row) for row in rows]))
    elif rows:
        say("\n".join(console.describe_models(rows)))
    else:
        say(f"Dataset {asked.dataset} has no model yet.")
    return OK


def show_issues(asked: argparse.Namespace) -> int:
    """What may be wrong with the images of a dataset."""
    from sightline import issue_list

    check_known(asked.dataset)
    found = issue_list.read_issues(open_catalog(asked.dataset), asked.kind, asked.limit)
    if asked.json:
        out.print_json(json.dumps(found.as_json()))
    else:
        say("\n".join(found.describe()))
    return OK


def rollback(asked: argparse.Namespace) -> int:
    """Let an earlier champion serve again."""
    from sightline import publishing

    check_known(asked.dataset)
    catalog = open_catalog(asked.dataset)
    by = getpass.getuser()
    before, now = publishing.roll_back(catalog, asked.to, by, asked.reason)
    accuracy = next(row.accuracy for row in status.list_models(asked.dataset) if row.version == now)
    say(f"Champion of {asked.dataset}: {now} (accuracy {accuracy:.4f}), in place of {before}.")
    say(f"'sightline rollback {asked.dataset} --to {before}' takes it back; no run does.")
    return OK


def export(asked: argparse.Namespace) -> int:
    """Write a model as one file for elsewhere."""
    check_known(asked.dataset)
    from sightline import exporting

    made = exporting.export(
        open_catalog(asked.dataset), asked.format, asked.version, asked.to, asked.images
    )
    found = made.compared
    say(f"Model {made.version} of {asked.dataset}: {made.url} ({made.size_bytes / 2**20:.1f} MiB)")
    say(
        f"Beside our own answers on {found.images:,} test images: {found.same_class:,} of the same class, "
        f"probabilities at most {found.largest_difference:.5f} apart."
    )
    say(f"What goes in and comes out: {made.facts_url}")
    return OK


def up(asked: argparse.Namespace) -> int:
    """Keep Airflow up until Ctrl-C, or show the one that is."""
    settings = load_settings()
    running = local_airflow.running_server(settings)
    if running and running.keep:
        _tell_address(settings, running)
        say("It is running already; 'make down' stops it.")
        return OK
    say("Starting the local Airflow ...")
    with local_airflow.keep_server(settings) as server:
        with _client(settings, server) as client:
            client.ensure_pools(airflow_environment.POOLS)
        _tell_address(settings, server)
        say("Ctrl-C, or 'make down' in another terminal, stops it.")
        try:
            broken = local_airflow.wait_for_end(settings, server)
        except KeyboardInterrupt:  # the usual end, not a failure
            broken = None
    if broken:
        raise AirflowUnavailable(broken)
    say("Airflow is down.")
    return OK


def down(asked: argparse.Namespace) -> int:
    """Stop the local Airflow with all it runs."""
    stopped = local_airflow.take_down(load_settings())
    say("Airflow is stopped." if stopped else "No local Airflow is running.")
    return OK


def prepare(asked: argparse.Namespace) -> int:
    """Make once what every later start would wait for."""
    from sightline import spark

    settings = load_settings()
    with _step("Airflow's database"):
        migrate_database(settings)
    with _step("class archive of Spark's JVM, so that its jobs start in half the time"):
        spark.make_class_archive()
    return OK


def _run(spec: DatasetSpec, partition: str | None) -> int:
    began = time.monotonic()
    partition = _partition(spec, partition)
    for fact in _preflight(spec, partition):
        out.print(fact, style="dim", markup=False, soft_wrap=True)
    with _airflow(spec) as (settings, server, client):
        with console.open_display(out) as display:
            outcome = DatasetRun(
                spec.name, client, display, partial(broken_part, settings, server)
            ).execute(partition, _fresh_parse(settings, spec, server))
        if not outcome.succeeded:
            console.tell_failures(err, outcome)
            say("'make up' shows the run and its logs in Airflow's UI.", err)
            return FAILED
        _tell_summary(spec.name, outcome)
        seconds = console.format_seconds(time.monotonic() - began)
        say(f"Finished in {seconds}. 'make up' shows the runs in Airflow's UI.")
    return OK


def _tell_summary(dataset: str, outcome: Outcome) -> None:
    records = ledger.read_run(open_catalog(dataset), outcome.ingest.dag_id, outcome.ingest.run_id)
    featurized = status.count_featurized(records)
    for line in console.summarize(status.read_status(dataset), outcome, featurized):
        say(line)


@contextmanager
def _airflow(spec: DatasetSpec) -> Iterator[tuple[Settings, Server, AirflowClient]]:
    """The local Airflow, for a command that has the dataset to itself."""
    settings = load_settings()
    with (
        dataset_run.only_run_of(settings, spec.name),
        _server(settings) as server,
        _client(settings, server) as client,
    ):
        yield settings, server, client


@contextmanager
def _server(settings: Settings) -> Iterator[Server]:
    began = time.monotonic()
    running = local_airflow.running_server(settings)
    if running is None:
        say("Starting the local Airflow ...")
    with local_airflow.use_server(settings) as server:
        if running is None:
            say(f"Airflow is ready after {time.monotonic() - began:.0f} s.")
        # The password is for `make up` alone: what a run prints may end in somebody's log.
        say(f"Airflow: {server.address} ('make up' tells the login)")
        yield server


@contextmanager
def _step(what: str) -> Iterator[None]:
    """One line for each step: what it makes, and how long it took."""
    began = time.monotonic()
    out.print(f"{what} ... ", end="", soft_wrap=True)
    yield
    out.print(f"{time.monotonic() - began:.0f} s")


def _client(settings: Settings, server: Server) -> AirflowClient:
    return AirflowClient(server.address, airflow_environment.read_password(settings))


def _tell_address(settings: Settings, server: Server) -> None:
    password = airflow_environment.read_password(settings)
    say(f"Airflow: {server.address} (login {USER} / {password})")


def _fresh_parse(settings: Settings, spec: DatasetSpec, server: Server) -> float:
    """The moment since which Airflow must have read the DAGs: they follow the dataset file."""
    changed_at = (settings.datasets / f"{spec.name}.yaml").stat().st_mtime
    return max(server.started_at, changed_at)


def _partition(spec: DatasetSpec, partition: str | None) -> str | None:
    """The partition asked for; of a source by days, by default the day that has ended."""
    if partition is None:
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        return yesterday.isoformat() if spec.source.is_daily else None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]*", partition):
        raise ConfigError(
            f"Partition {partition!r} is not a partition key; give one such as 2026-11-05."
        )
    return partition


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no day; give one such as 2026-11-05.") from None


def _number(text: str) -> int:
    """A number of things, one at least."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of images")
    return int(text)


def _preflight(spec: DatasetSpec, partition: str | None) -> list[str]:
    from sightline import preflight

    connection = getattr(spec.source, "connection", None)
    if connection and not from_environment(connection):  # Airflow's database may hold it
        return [
            f"connection {connection}: not in this environment; the run looks into Airflow's own"
        ]
    return preflight.check(
        spec, Access(open_catalog(spec.name), partition or "all", from_environment)
    )


def listen_to_signals() -> None:
    """Turn the three ways to be told to stop into one exception, once.

    Set explicitly, because a shell may start us with SIGINT ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for other in STOP_SIGNALS:  # cleaning up takes seconds and must not be cut short
            signal.signal(other, signal.SIG_IGN)
        os.write(2, b"\nStopping ...\n")  # nothing buffered is safe to use in a handler
        raise KeyboardInterrupt

    for number in STOP_SIGNALS:
        signal.signal(number, stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sightline", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=command)
        return added

    for name, command, text in (
        ("run", run, "ingest a dataset, train on it, report"),
        ("check", check, "the preflight of a dataset alone"),
    ):
        one = add(name, command, text)
        one.add_argument("dataset", help="name of a file in include/datasets, without .yaml")
        one.add_argument(
            "--partition", metavar="KEY", help="such as 2026-11-05; default: everything"
        )
    many = add("backfill", backfill, "ingest many days of a dataset side by side, then train once")
    many.add_argument("dataset", help="name of a file in include/datasets, without .yaml")
    many.add_argument("--from", dest="first", metavar="DAY", required=True, help="the first day")
    many.add_argument(
        "--to", dest="last", metavar="DAY", required=True, help="the last day, included"
    )
    many.add_argument("--again", action="store_true", help="also days that have ended well")
    add("demo", demo, "run the built-in dataset of handwritten digits")
    shown = add("status", show_status, "images, rejects, features, runs and champion")
    shown.add_argument("dataset", nargs="?", help="default: every dataset")
    shown.add_argument("--json", action="store_true", help="for programs")
    listed = add("models", show_models, "every model of a dataset, and which one serves")
    listed.add_argument("dataset")
    listed.add_argument("--json", action="store_true", help="for programs")
    found = add("issues", show_issues, "what may be wrong with the images of a dataset")
    found.add_argument("dataset")
    found.add_argument(
        "--kind", metavar="ISSUE", help="such as dark: lists its images, worst first"
    )
    found.add_argument("--limit", metavar="N", type=_number, default=20, help="images to list")
    found.add_argument("--json", action="store_true", help="for programs")
    lineage_commands.add_commands(add)
    back = add("rollback", rollback, "let the champion before, or another earlier one, serve again")
    back.add_argument("dataset")
    back.add_argument("--to", metavar="VERSION", help="default: the champion before this one")
    back.add_argument("--reason", metavar="TEXT", default="", help="kept in the history")
    rights_commands.add_commands(add)
    maintenance_commands.add_commands(add)
    out_there = add(
        "export", export, "write the champion, preprocessing included, for a phone or a server"
    )
    out_there.add_argument("dataset")
    out_there.add_argument("--format", choices=("onnx", "torch"), required=True)
    out_there.add_argument("--version", metavar="VERSION", help="default: the champion")
    out_there.add_argument(
        "--to", metavar="PATH", help="a file; default: in exports/ of the dataset's storage"
    )
    out_there.add_argument(
        "--images", metavar="N", type=_number, default=1000, help="test images to compare it on"
    )
    serving_commands.add_commands(add)
    connection_commands.add_commands(add)
    planning_commands.add_commands(add)
    add("up", up, "keep Airflow up until Ctrl-C")
    add("down", down, "stop Airflow with all it runs")
    own = add(
        "airflow",
        airflow,
        "Airflow's own command on the local Airflow: sightline airflow dags list",
    )
    own.add_argument("arguments", nargs=argparse.REMAINDER)
    add("prepare", prepare, "make once what later starts would wait for")
    return parser
