"""What a source is given beside its block of the dataset file, and what a first look at it tells."""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from sightline.catalog import Catalog


@dataclass(frozen=True)
class Credential:
    """A login to a provider, from an Airflow connection; it never prints its password."""

    login: str = ""
    password: str = field(default="", repr=False)


def no_credential(connection: str) -> Credential | None:
    """For where there are no connections."""
    return None


@dataclass(frozen=True)
class Access:
    """The slice that is asked for, and the places and rights to get it."""

    catalog: Catalog
    partition: str
    # By the name of an Airflow connection; None where there is no such connection.
    credential: Callable[[str], Credential | None] = no_credential
    # Small values that a retry of the same task finds again, and no other run.
    cursor: MutableMapping[str, Any] = field(default_factory=dict)
    # Numbers about the listing, for the run's record and the report.
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """What a source holds, as far as it can be known before it is asked for every image."""

    images_by_class: dict[str, int] | None = None  # None where only a full listing can tell
    images: int | None = None  # None where unknown
    size_bytes: int | None = None  # of the images, and of the archive that they come in
    facts: tuple[str, ...] = ()  # sentences for a person

    @property
    def total(self) -> int:
        """Images in all, as far as known."""
        if self.images is None:
            return sum((self.images_by_class or {}).values())
        return self.images
