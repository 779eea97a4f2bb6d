"""The environment in which the local Airflow runs: every option that differs from Airflow's own default.

Airflow reads its options from variables, so no airflow.cfg is kept by hand. What takes the person's own
Airflow settings for granted (AIRFLOW_HOME, AIRFLOW__...) is left out: a demo must not migrate the
database of another Airflow.
"""

import base64
import json
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from sightline.settings import Settings
from sightline.spark_cluster import is_local

HOST = "127.0.0.1"
USER = "admin"
TASK_FAILURES = 4  # as on a cluster: a lost Python worker costs its Spark task, not the job
POOLS = {"sightline_spark": 1, "sightline_flickr": 1}  # name: slots; `operators` says what for

# Loaded once in the scheduler, from which the tasks are forked, instead of in every task. Others'
# packages only: an edit of our own must reach the next task without a restart.
PRELOADED = ("deltalake", "fsspec", "great_expectations", "pandas", "pyarrow.dataset", "pydantic")
LOCAL_SETTINGS = """\
import importlib, sys

__all__ = []
if "scheduler" in sys.argv:
    for name in {modules!r}:
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # the task that needs it will say so
"""


@dataclass(frozen=True)
class Places:
    """The folders of the local Airflow."""

    home: Path  # AIRFLOW_HOME
    dags: Path
    plugins: Path
    lineage: Path


def airflow_places(settings: Settings) -> Places:
    """Where the local Airflow keeps its things; SIGHTLINE_DAGS names another folder of DAGs."""
    return Places(
        home=settings.state / "airflow",
        dags=settings.home / (os.environ.get("SIGHTLINE_DAGS") or "dags"),
        plugins=settings.home / "plugins",
        lineage=settings.state / "lineage" / "events.jsonl",
    )


def prepare_home(settings: Settings) -> None:
    """Make AIRFLOW_HOME with its secrets, its login and the list of modules to load early."""
    places = airflow_places(settings)
    places.home.mkdir(parents=True, exist_ok=True)
    places.home.chmod(0o700)  # database and logs too are nobody else's business
    places.lineage.parent.mkdir(parents=True, exist_ok=True)
    config = places.home / "config" / "airflow_local_settings.py"
    config.parent.mkdir(exist_ok=True)
    config.write_text(LOCAL_SETTINGS.format(modules=PRELOADED))
    if not _secrets_file(places).exists():
        names = ("fernet_key", "jwt_secret", "secret_key")
        keys = {name: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode() for name in names}
        _write_private(_secrets_file(places), keys)
    if not _passwords_file(places).exists():
        _write_private(_passwords_file(places), {USER: secrets.token_urlsafe(12)})


def read_password(settings: Settings) -> str:
    """The password of the user `admin`."""
    return str(json.loads(_passwords_file(airflow_places(settings)).read_text())[USER])


def airflow_environment(settings: Settings, port: int) -> dict[str, str]:
    """The variables for every process of the local Airflow, its tasks and their Spark."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AIRFLOW__")
        and name not in ("AIRFLOW_HOME", "AIRFLOW_CONFIG", "SPARK_HOME", "PYTHONHOME")
    }
    spark = settings.spark_master or f"local[{_cores()},{TASK_FAILURES}]"
    programs = str(Path(sys.executable).parent)
    keys = json.loads(_secrets_file(airflow_places(settings)).read_text())
    options = {**_options(settings, port), **_secret_options(keys)}
    return {
        **inherited,
        **{f"AIRFLOW__{name.upper()}": value for name, value in options.items()},
        **_data_settings(settings),
        "AIRFLOW_HOME": str(airflow_places(settings).home),
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps(
            {"conn_type": "spark", "host": spark, "extra": {"deploy-mode": "client"}}
        ),
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
        # Else Spark's workers start the system's python; those of a cluster may have theirs elsewhere.
        "PYSPARK_PYTHON": inherited.get("PYSPARK_PYTHON", sys.executable),
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        **_spark_address(spark),
        "DO_NOT_TRACK": "1",
        # Else each event tells the checkout's origin as git has it, a login in it included.
        "OPENLINEAGE__FACETS__SOURCE_CODE_LOCATION__DISABLED": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _options(settings: Settings, port: int) -> dict[str, str]:
    places = airflow_places(settings)
    address = f"http://{HOST}:{port}"
    return {
        "core__dags_folder": str(places.dags),
        "core__plugins_folder": str(places.plugins),
        "core__load_examples": "False",
        "core__executor": "LocalExecutor",
        "core__parallelism": str(max(4, 2 * _cores())),
        "core__execution_api_server_url": f"{address}/execution/",
        "core__simple_auth_manager_users": f"{USER}:admin",
        "core__simple_auth_manager_passwords_file": str(_passwords_file(places)),
        # An empty name: nothing serves logs here, the api-server reads the files; and no slow name
        # look-up in each heartbeat.
        "core__hostname_callable": "builtins.str",
        "core__min_serialized_dag_update_interval": "5",
        **_database(settings),
        "logging__base_log_folder": str(places.home / "logs"),
        "api__host": HOST,
        "api__port": str(port),
        "api__base_url": address,
        "api__workers": "1",
        "dag_processor__refresh_interval": "10",
        "dag_processor__min_file_process_interval": "30",
        "dag_processor__dag_bundle_storage_path": str(places.home / "bundles"),
        "dag_processor__print_stats_interval": "0",
        # The next task starts 0.2 s after the one before it instead of 1 s ...
        "scheduler__scheduler_idle_sleep_time": "0.25",
        # ... and a worker is free 1 s after its task has ended instead of 5 s.
        "workers__min_heartbeat_interval": "1",
        "workers__execution_api_timeout": "30",  # a busy laptop is slow, not broken
        "openlineage__namespace": "sightline",
        # Not in a fork: delta-rs cannot be used in one of a process that has used it.
        "openlineage__execute_in_thread": "True",
        "openlineage__execution_timeout": "60",  # seconds; a busy laptop is slow, not broken
        **_lineage(settings),
    }


def _secret_options(keys: dict[str, str]) -> dict[str, str]:
    return {
        "core__fernet_key": keys["fernet_key"],
        "api_auth__jwt_secret": keys["jwt_secret"],
        "api__secret_key": keys["secret_key"],
    }


def _database(settings: Settings) -> dict[str, str]:
    """One driver serves both ways of asking, so both have the same address."""
    address = settings.database or f"sqlite:///{airflow_places(settings).home}/airflow.db"
    options = {"database__sql_alchemy_conn": address}
    if settings.database:
        options["database__sql_alchemy_conn_async"] = address
    return options


def _lineage(settings: Settings) -> dict[str, str]:
    """Events go to a server, and Spark's jobs name the task that is their parent; else into a file."""
    if settings.lineage_url:
        return {
            "openlineage__transport": json.dumps({"type": "http", "url": settings.lineage_url}),
            "openlineage__spark_inject_parent_job_info": "True",
        }
    log_file_path = str(airflow_places(settings).lineage)
    transport = {"type": "file", "log_file_path": log_file_path, "append": True}
    return {"openlineage__transport": json.dumps(transport)}


def _spark_address(master: str) -> dict[str, str]:
    """In local mode Spark would bind the machine's outer address; a cluster must reach the driver there."""
    return {"SPARK_LOCAL_IP": HOST} if is_local(master) else {}


def _data_settings(settings: Settings) -> dict[str, str]:
    return {
        "SIGHTLINE_HOME": str(settings.home),
        "SIGHTLINE_STORAGE": settings.storage,
        "SIGHTLINE_DATASETS": str(settings.datasets),
        "SIGHTLINE_STATE": str(settings.state),
        "SIGHTLINE_JARS": str(settings.jars),
        "SIGHTLINE_SPARK_MASTER": settings.spark_master,
        "SIGHTLINE_LINEAGE_URL": settings.lineage_url,
    }


def _cores() -> int:
    """The cores that this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _secrets_file(places: Places) -> Path:
    return places.home / "secrets.json"


def _passwords_file(places: Places) -> Path:
    return places.home / "passwords.json"


def _write_private(path: Path, value: dict[str, str]) -> None:
    """Write a JSON file that only its owner may read from its first moment on, whole or not at all."""
    beside = path.with_suffix(".new")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(value, stream)
    beside.replace(path)
