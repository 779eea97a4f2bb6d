"""The nightly clean-up of what is of no dataset: logs, what killed Spark drivers have left, and the code and
weights that were sent to workers.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sightline import emr, shipping, spark_cluster, storage
from sightline.maintenance import EVER, remove_unused
from sightline.settings import Settings

log = logging.getLogger(__name__)

LOG_DAYS = 90  # of Airflow's logs, and of EMR's
SCRATCH_DAYS = 7  # of Spark's temporary files; a driver that works longer would lose its own
# Of code and weights since the last job that was sent with them. An executor that comes late still needs
# them, and a job takes ten days at most (compute_config).
SENT_DAYS = 30


@dataclass(frozen=True)
class Cleaned:
    """What a clean-up has removed."""

    logs: int
    drivers: int  # killed ones, whose temporary files are gone
    archives: int  # of code, here and on the storage, and files of weights


def clean(settings: Settings, airflow_logs: str, scratch: Iterable[str], now: datetime) -> Cleaned:
    """Remove what is old of Airflow's and EMR's logs, of Spark's temporary folders, and of what was sent."""
    logs = (airflow_logs, storage.join(settings.storage, emr.LOGS))
    sent = (
        str(spark_cluster.library_folder(settings)),
        storage.join(settings.storage, shipping.FOLDER),
        storage.join(settings.storage, shipping.WEIGHTS),
    )
    cleaned = Cleaned(
        logs=sum(remove_old_files(folder, now - timedelta(days=LOG_DAYS)) for folder in logs),
        drivers=clean_scratch(scratch, now - timedelta(days=SCRATCH_DAYS)),
        archives=sum(remove_unused(folder, now - timedelta(days=SENT_DAYS)) for folder in sent),
    )
    log.info(
        "removed %d old logs, the temporary files of %d killed drivers, %d unused archives and weights",
        cleaned.logs, cleaned.drivers, cleaned.archives,
    )  # fmt: skip
    return cleaned


def clean_scratch(folders: Iterable[str], before: datetime | None = None) -> int:
    """Remove what killed Spark drivers have left in their folders, by default all of it; returns how many
    drivers."""
    return sum(remove_unused(folder, before or EVER) for folder in folders)


def remove_old_files(folder: str, before: datetime) -> int:
    """Remove the files below a folder that nobody has written to since a moment; returns how many."""
    old = [path for path, written_at in storage.files_below(folder).items() if written_at < before]
    for path in old:
        storage.remove_file(storage.join(folder, path))
    storage.remove_empty_folders(folder, before)
    return len(old)
