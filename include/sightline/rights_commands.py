"""`sightline take-down`, `rejects` and `re-admit`: what may be held, and what could not be."""

import argparse
import getpass
import json

from sightline import airflow_environment, console, dataset_run, local_airflow, take_down
from sightline import readmission as quarantine
from sightline.airflow_client import AirflowClient
from sightline.catalog import open_catalog
from sightline.command_output import OK, Add, out, say
from sightline.config import check_known
from sightline.errors import AirflowUnavailable
from sightline.settings import Settings, load_settings


def add_commands(add: Add) -> None:
    """Add them to the parser of the command."""
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


def remove_images(asked: argparse.Namespace) -> int:
    """Remove images from every table and file, for good."""
    check_known(asked.dataset)
    wanted = take_down.make_asked(asked.image_id, asked.uri, asked.author, asked.licence)
    settings, catalog = load_settings(), open_catalog(asked.dataset)
    with dataset_run.only_run_of(settings, asked.dataset):
        refuse_while_running(settings, asked.dataset)
        done = take_down.take_down(catalog, wanted, asked.reason, getpass.getuser())
    for request in done:
        say(take_down.describe(catalog, request))
    say(f"'sightline run {asked.dataset}' trains without them.")
    return OK


def show_rejects(asked: argparse.Namespace) -> int:
    """What a dataset could not take, and why."""
    check_known(asked.dataset)
    rows = quarantine.list_rejects(open_catalog(asked.dataset), asked.reason, asked.limit)
    if asked.json:
        out.print_json(json.dumps(rows, default=str))
    elif rows:
        say("\n".join(console.describe_rejects(rows)))
    else:
        say(f"Dataset {asked.dataset} has no such rejects.")
    return OK


def readmit(asked: argparse.Namespace) -> int:
    """Let rejects be tried again."""
    check_known(asked.dataset)
    uris = quarantine.readmit(
        open_catalog(asked.dataset), asked.uri, asked.rejected_for, asked.reason, getpass.getuser()
    )
    say(f"{len(uris):,} rejects of {asked.dataset} are tried again by the next ingest.")
    return OK


def refuse_while_running(settings: Settings, dataset: str) -> None:
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
