"""The commands about rights and the quarantine: each does its work and returns the lines to show."""

import argparse
import getpass
import json
from collections.abc import Callable
from typing import Any

from sightline import airflow_environment, console, dataset_run, local_airflow, take_down
from sightline import readmission as quarantine
from sightline.airflow_client import AirflowClient
from sightline.catalog import open_catalog
from sightline.config import check_known
from sightline.errors import AirflowUnavailable
from sightline.settings import Settings, load_settings

Command = Callable[[argparse.Namespace], list[str]]


def add_commands(add: Callable[[str, Command, str], Any]) -> None:
    """Tell the parser of them."""
    gone = add("take-down", remove_images, "remove images from every table and file, for good")
    gone.add_argument("dataset")
    gone.add_argument("--author", metavar="NAME", help="all of an author, future ones too")
    gone.add_argument("--licence", metavar="NAME", help="all under it, as the source names it")
    gone.add_argument("--uri", action="append", default=[], help="an address; may be given again")
    gone.add_argument("--image-id", action="append", default=[], help="may be given again")
    gone.add_argument("--reason", metavar="TEXT", required=True, help="kept in the models")
    refused = add("rejects", show_rejects, "images that could not be taken, and why")
    refused.add_argument("dataset")
    refused.add_argument("--reason", metavar="CODE", help="such as truncated; default: any")
    refused.add_argument("--limit", metavar="N", type=int, default=50, help="default: 50")
    refused.add_argument("--json", action="store_true", help="for programs")
    again = add("re-admit", readmit, "let the next ingest try rejects again, however final")
    again.add_argument("dataset")
    again.add_argument("--uri", action="append", default=[], help="a reject; may be given again")
    again.add_argument("--rejected-for", metavar="CODE", help="or all of a reason")
    again.add_argument("--reason", metavar="TEXT", required=True, help="why; kept")


def remove_images(asked: argparse.Namespace) -> list[str]:
    """Remove images from every table and file, for good."""
    check_known(asked.dataset)
    wanted = take_down.make_asked(asked.image_id, asked.uri, asked.author, asked.licence)
    settings, catalog = load_settings(), open_catalog(asked.dataset)
    with dataset_run.only_run_of(settings, asked.dataset):
        _refuse_while_running(settings, asked.dataset)
        done = take_down.take_down(catalog, wanted, asked.reason, getpass.getuser())
    return [
        *(take_down.describe(catalog, request) for request in done),
        f"'sightline run {asked.dataset}' trains without them.",
    ]


def show_rejects(asked: argparse.Namespace) -> list[str]:
    """What a dataset could not take, and why."""
    check_known(asked.dataset)
    rows = quarantine.list_rejects(open_catalog(asked.dataset), asked.reason, asked.limit)
    if asked.json:
        return [json.dumps(rows, indent=2, default=str)]
    if not rows:
        return [f"Dataset {asked.dataset} has no such rejects."]
    return console.describe_rejects(rows)


def readmit(asked: argparse.Namespace) -> list[str]:
    """Let rejects be tried again."""
    check_known(asked.dataset)
    uris = quarantine.readmit(
        open_catalog(asked.dataset), asked.uri, asked.rejected_for, asked.reason, getpass.getuser()
    )
    return [f"{len(uris):,} rejects of {asked.dataset} are tried again by the next ingest."]


def _refuse_while_running(settings: Settings, dataset: str) -> None:
    """AirflowUnavailable where the local Airflow has a run of the dataset under way."""
    server = local_airflow.running_server(settings)
    if server is None:
        return
    with AirflowClient(server.address, airflow_environment.read_password(settings)) as client:
        for kind in ("ingest", "train", "predict"):
            if client.active_runs(f"{kind}_{dataset}"):
                raise AirflowUnavailable(
                    f"A run of {kind}_{dataset} is under way; wait for its end, or trigger the DAG "
                    "take_down, which waits for it."
                )
