"""Where things are on this machine, from the environment; everything else is in a dataset file.

SIGHTLINE_HOME      the checkout (default: the folder that holds include/)
SIGHTLINE_STORAGE   root of all tables, models and reports; a path or an fsspec URL (default: HOME/data)
SIGHTLINE_DATASETS  folder of dataset files (default: HOME/include/datasets)
SIGHTLINE_STATE     local Airflow and caches (default: HOME/.sightline)

SIGHTLINE_COMPUTE, where Spark's jobs run, stands in compute_config.py: a dataset file may say otherwise.
"""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The four places that Sightline works in."""

    home: Path
    storage: str
    datasets: Path
    state: Path


def load_settings() -> Settings:
    """Read the settings from the environment; relative paths are taken from SIGHTLINE_HOME."""
    home = Path(os.environ.get("SIGHTLINE_HOME") or Path(__file__).parents[2]).resolve()
    storage = os.environ.get("SIGHTLINE_STORAGE") or "data"
    return Settings(
        home=home,
        storage=storage if "://" in storage else str(home / storage),
        datasets=home / (os.environ.get("SIGHTLINE_DATASETS") or "include/datasets"),
        state=home / (os.environ.get("SIGHTLINE_STATE") or ".sightline"),
    )
