"""What can go wrong, said to a person: each message names the thing, the value and the way out.

SightlineError
├── ConfigError        a dataset file, a setting or an argument is wrong
├── SourceError        a source cannot be listed, or lists nothing
├── StorageError       a table or file cannot be read or written
├── ClusterError       a Spark cluster has lost what a job was running on
├── WeightsError       pretrained weights are missing or broken
├── ResourceError      the machine has too little disk or memory for the job
├── CheckFailed        data or a model did not meet what is asked of it
├── TrainingError      a classifier cannot be trained from what is there
├── PhotoRefused       a photo that somebody has handed in cannot be looked at
└── AirflowUnavailable the local Airflow did not start or did not answer

None of them is mended by trying again at once, so a task that raises one fails without a retry; but for a
lost cluster, and an object store that did not answer, whose StorageError says so: `may_pass`.
"""

from typing import Any

REFUSED = "sightline refused: "  # begins the line in a Spark job's log that tells Airflow so


class SightlineError(Exception):
    """Base of every error that Sightline raises on purpose."""

    may_pass = False  # whether another try may mend it


class ConfigError(SightlineError):
    """A dataset file, a setting or an argument is wrong."""


class SourceError(SightlineError):
    """A source cannot be listed, or lists nothing."""


class StorageError(SightlineError):
    """A table or file cannot be read or written."""

    def __init__(self, message: str, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class ClusterError(SightlineError):
    """A Spark cluster has lost what a job was running on; another try gets it anew."""

    may_pass = True


class WeightsError(SightlineError):
    """Pretrained weights are missing or broken."""


class ResourceError(SightlineError):
    """The machine has too little disk or memory for the job."""


class CheckFailed(SightlineError):
    """Data or a model did not meet what is asked of it; `findings` are all results of a validation."""

    def __init__(self, message: str, findings: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.findings = findings or []


class TrainingError(SightlineError):
    """A classifier cannot be trained from what is there."""


class PhotoRefused(SightlineError):
    """A photo that somebody has handed in cannot be looked at; `reason` is a code of `images.REASONS`."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class AirflowUnavailable(SightlineError):
    """The local Airflow did not start or did not answer."""
