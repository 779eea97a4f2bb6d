"""The `sightline` command: run a dataset, look at it, keep an Airflow up."""

import argparse
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.markup import escape

from sightline import airflow_environment, console, dataset_run, ledger, local_airflow, status
from sightline.airflow_client import AirflowClient
from sightline.airflow_environment import USER
from sightline.catalog import open_catalog
from sightline.config import DatasetSpec, dataset_files, load_dataset
from sightline.errors import ConfigError, SightlineError
from sightline.local_airflow import Server
from sightline.settings import Settings, load_settings

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130  # exit codes
log = logging.getLogger(__name__)
out = Console(highlight=False)
err = Console(highlight=False, stderr=True)


class Interrupted(KeyboardInterrupt):
    """A signal asked us to stop."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    _listen_to_signals()
    asked = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return int(asked.command(asked))
    except KeyboardInterrupt:
        err.print("\nStopped.")
        return INTERRUPTED
    except SightlineError as error:
        err.print(str(error), markup=False, soft_wrap=True)
        return REFUSED if isinstance(error, ConfigError) else FAILED
    except Exception as error:  # the last resort: a person gets a line, the details lie in a file
        if asked.debug:
            raise
        details = load_settings().state / "error.log"
        details.parent.mkdir(parents=True, exist_ok=True)
        details.write_text(traceback.format_exc())
        err.print(f"Unexpected {type(error).__name__}: {error}", markup=False, soft_wrap=True)
        err.print(f"Details: {details} (or run it again with --debug)", markup=False, soft_wrap=True)
        return FAILED


def run(asked: argparse.Namespace) -> int:
    """Ingest a dataset and train on it, in the local Airflow."""
    return _run(load_dataset(asked.dataset), asked.partition)


def demo(asked: argparse.Namespace) -> int:
    """Run the dataset that is built in."""
    out.print("digits: 1,797 scanned handwritten digits become a classifier; no download, no account.")
    return _run(load_dataset("digits"), None)


def check(asked: argparse.Namespace) -> int:
    """The preflight alone."""
    from sightline import preflight

    for fact in preflight.check(load_dataset(asked.dataset), asked.partition):
        out.print(fact, markup=False, soft_wrap=True)
    return OK


def show_status(asked: argparse.Namespace) -> int:
    """What is there of one dataset, or of each."""
    names = [asked.dataset] if asked.dataset else [path.stem for path in dataset_files()]
    found = [status.read_status(load_dataset(name).name) for name in names]
    if asked.json:
        value = [one.as_json() for one in found]
        out.print_json(json.dumps(value[0] if asked.dataset else value))
    else:
        for one in found:
            out.print(console.draw_status(one))
    return OK


def up(asked: argparse.Namespace) -> int:
    """Keep Airflow up until Ctrl-C, or show the one that is."""
    settings = load_settings()
    running = local_airflow.find_server(settings)
    if running and running.keep:
        _tell_address(settings, running)
        out.print("It is running already; 'make down' stops it.")
        return OK
    with _server(settings, keep=True) as server:
        _tell_address(settings, server)
        out.print("Ctrl-C stops it.")
        while (broken := local_airflow.broken_part(settings, server)) is None:
            time.sleep(1)
    if local_airflow.find_server(settings) is None:
        out.print("Airflow was stopped.")
    log.debug("%s", broken)
    return OK
