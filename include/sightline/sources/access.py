"""What a source is given beside its block of the dataset file, and what a first look at it tells."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sightline.catalog import Catalog

ROWS_AT_A_TIME = 5_000


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


def in_lists(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Manifest rows in lists of bounded length, as `list_images` yields them."""
    rows = iter(rows)
    while some := list(islice(rows, ROWS_AT_A_TIME)):
        yield some


@dataclass(frozen=True)
class Survey:
    """What a source holds, as far as it can be known before it is asked for every image."""

    images_by_class: dict[str, int] | None = None  # None where only a full listing can tell
    size_bytes: int | None = None  # of the images, and of the archive that they come in
    facts: tuple[str, ...] = ()  # sentences for a person

    @property
    def total(self) -> int:
        """Images in all, 0 where only a full listing can tell."""
        return sum((self.images_by_class or {}).values())
