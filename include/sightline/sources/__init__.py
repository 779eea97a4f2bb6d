"""Where images come from: one module a source, and its line here."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from sightline.catalog import Catalog
from sightline.sources import digits, folder
from sightline.sources.survey import Survey

__all__ = ["SOURCES", "Source", "Survey"]


class Source(Protocol):
    """What a source module offers."""

    def survey(self, source: Any) -> Survey:
        """Count what the source holds, without fetching it; SourceError where it cannot be read."""

    def list_images(
        self, source: Any, catalog: Catalog, partition: str
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield manifest rows in lists of bounded length; columns left out are null."""


SOURCES: Mapping[str, Source] = {
    "digits": digits,
    "folder": folder,
}
