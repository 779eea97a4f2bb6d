"""`sightline maintain`: the clean-up of datasets by hand."""

import argparse
import logging
from datetime import UTC, datetime

from sightline import dataset_run, local_airflow, maintenance, shared_maintenance
from sightline.airflow_environment import airflow_places, scratch_folder
from sightline.catalog import open_catalog
from sightline.command_output import FAILED, OK, Add, err, say
from sightline.config import dataset_files, load_dataset
from sightline.errors import SightlineError
from sightline.rights_commands import refuse_while_running
from sightline.settings import Settings, load_settings


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
    """Clean up a dataset, or all of them and what is of none; one that cannot be cleaned stops no other."""
    logging.getLogger("sightline").setLevel(logging.INFO)
    settings = load_settings()
    if asked.at_once and local_airflow.running_server(settings) is None:
        scratch = shared_maintenance.clean_scratch([str(scratch_folder(settings))])
        say(f"{scratch:,} folders of killed Spark drivers removed.")
    if asked.dataset:
        _maintain(settings, asked.dataset, asked.at_once)
        return OK
    logs, scratch_folders = airflow_places(settings).home / "logs", [str(scratch_folder(settings))]
    shared_maintenance.clean(settings, str(logs), scratch_folders, datetime.now(UTC))
    code = OK
    for path in dataset_files():
        try:
            _maintain(settings, path.stem, asked.at_once)
        except SightlineError as error:
            say(f"{path.stem} is not cleaned: {error}", err)
            code = FAILED
    return code


def _maintain(settings: Settings, name: str, at_once: bool) -> None:
    spec, catalog = load_dataset(name), open_catalog(name)
    with dataset_run.only_run_of(settings, name):
        if at_once:
            refuse_while_running(settings, name)
        cleaned = maintenance.maintain(spec, catalog, at_once=at_once)
    say(
        f"{name}: {len(cleaned.retired)} models retired, {cleaned.merged_files:,} small files merged, "
        f"{cleaned.removed_files:,} files removed."
    )
