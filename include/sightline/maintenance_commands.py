"""`sightline maintain`: the clean-up of datasets by hand."""

import argparse
import logging

from sightline import dataset_run, local_airflow, maintenance
from sightline.airflow_environment import scratch_folder
from sightline.catalog import open_catalog
from sightline.command_output import OK, Add, say
from sightline.config import dataset_files, load_dataset
from sightline.rights_commands import refuse_while_running
from sightline.settings import load_settings


def add_commands(add: Add) -> None:
    """Add it to the parser of the command."""
    clean = add("maintain", maintain, "remove what no table, model or task of a dataset needs")
    clean.add_argument("dataset", nargs="?", help="default: every dataset")
    clean.add_argument(
        "--at-once",
        action="store_true",
        help="also what killed tasks have left of late, which then cannot go on from there",
    )


def maintain(asked: argparse.Namespace) -> int:
    """Clean up a dataset, or all of them."""
    logging.getLogger("sightline").setLevel(logging.INFO)
    names = [asked.dataset] if asked.dataset else [path.stem for path in dataset_files()]
    settings = load_settings()
    if asked.at_once and local_airflow.running_server(settings) is None:
        scratch = maintenance.clean_scratch([str(scratch_folder(settings))], at_once=True)
        say(f"{scratch:,} folders of killed Spark drivers removed.")
    for name in names:
        spec, catalog = load_dataset(name), open_catalog(name)
        with dataset_run.only_run_of(settings, name):
            if asked.at_once:
                refuse_while_running(settings, name)
            cleaned = maintenance.maintain(spec, catalog, at_once=asked.at_once)
        say(
            f"{name}: {len(cleaned.retired)} models retired, {cleaned.merged_files:,} small files merged, "
            f"{cleaned.removed_files:,} files removed."
        )
    return OK
