"""`sightline connections`: the logins and servers that Sightline needs, and whether they are there."""

import argparse
import os
import sys

from sightline.airflow_environment import airflow_environment
from sightline.airflow_start import migrate_database
from sightline.command_output import Add
from sightline.settings import load_settings

DATABASE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


def add_commands(add: Add) -> None:
    """Add it to the parser of the command."""
    add(
        "connections", check_connections, "are all logins and servers there that the datasets need?"
    )


def check_connections(asked: argparse.Namespace) -> int:
    """Become the check, in the environment of Airflow: this one where it names Airflow's database, as in a
    container, else the local Airflow's.
    """
    environment = dict(os.environ)
    if DATABASE not in environment:
        settings = load_settings()
        migrate_database(settings)
        environment = airflow_environment(settings, port=8080)
    os.execve(sys.executable, [sys.executable, "-m", "sightline.connections_check"], environment)
