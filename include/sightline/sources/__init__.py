"""Where images come from: one module a source, and its line here."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from sightline.images import Rejected
from sightline.sources import (
    archive,
    digits,
    flickr,
    folder,
    kaggle,
    open_images,
    url_list,
)
from sightline.sources.access import Access, Credential, Survey

__all__ = ["SOURCES", "Access", "Credential", "Source", "StreamedSource", "Survey"]


class Source(Protocol):
    """What a source module offers."""

    def survey(self, source: Any, access: Access) -> Survey:
        """What can be known before any cost; SourceError where the source cannot be used."""

    def list_images(self, source: Any, access: Access) -> Iterator[list[dict[str, Any]]]:
        """Yield manifest rows in lists of bounded length; columns left out are null."""


@runtime_checkable
class StreamedSource(Source, Protocol):
    """A source whose bytes come in one stream, such as an archive: the driver reads it in its order."""

    def stream_images(
        self, source: Any, access: Access, is_wanted: Callable[[str], bool], most_bytes: int
    ) -> Iterator[tuple[dict[str, Any], bytes | Rejected]]:
        """Yield each wanted image's manifest row and its bytes, at most one byte more than the limit."""


SOURCES: Mapping[str, Source] = {
    "archive": archive,
    "digits": digits,
    "flickr": flickr,
    "folder": folder,
    "kaggle": kaggle,
    "open_images": open_images,
    "url_list": url_list,
}
