"""Where things are, from the environment; everything else is in a dataset file.

SIGHTLINE_HOME          the checkout (default: the folder that holds include/)
SIGHTLINE_STORAGE       root of all tables, models and reports; a path or an fsspec URL (default: HOME/data)
SIGHTLINE_DATASETS      folder of dataset files (default: HOME/include/datasets)
SIGHTLINE_STATE         local Airflow and caches (default: HOME/.sightline)
SIGHTLINE_SPARK_MASTER  where Spark runs, as spark://host:7077 (default: in this machine's cores)
SIGHTLINE_JARS          folder of jars that Spark needs beside its own (default: STATE/jars)
SIGHTLINE_DATABASE      Airflow's database, as postgresql+psycopg://... (default: a file in STATE)
SIGHTLINE_LINEAGE_URL   an OpenLineage server (default: a file in STATE)

An object store's address and keys are those that its own tools read: AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION.

SIGHTLINE_COMPUTE, where Spark's jobs run, stands in compute_config.py: a dataset file may say otherwise.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The places that Sightline works in."""

    home: Path
    storage: str
    datasets: Path
    state: Path
    jars: Path
    spark_master: str = ""  # empty: this machine's cores
    database: str = field(default="", repr=False)  # may hold a password
    lineage_url: str = ""


def load_settings() -> Settings:
    """Read the settings from the environment; relative paths are taken from SIGHTLINE_HOME."""
    home = Path(os.environ.get("SIGHTLINE_HOME") or Path(__file__).parents[2]).resolve()
    storage = os.environ.get("SIGHTLINE_STORAGE") or "data"
    state = home / (os.environ.get("SIGHTLINE_STATE") or ".sightline")
    return Settings(
        home=home,
        storage=storage if "://" in storage else str(home / storage),
        datasets=home / (os.environ.get("SIGHTLINE_DATASETS") or "include/datasets"),
        state=state,
        jars=home / (os.environ.get("SIGHTLINE_JARS") or state / "jars"),
        spark_master=os.environ.get("SIGHTLINE_SPARK_MASTER", ""),
        database=os.environ.get("SIGHTLINE_DATABASE", ""),
        lineage_url=os.environ.get("SIGHTLINE_LINEAGE_URL", ""),
    )
