"""Asking Flickr's search: one query at a time, spaced, with patience; the key is told to nobody else."""

import logging
import random
import time
from typing import Any, Self
from urllib.parse import quote, quote_plus

from sightline.errors import SourceError
from sightline.source_config import FlickrSource
from sightline.sources.flickr_windows import PHOTOS_PER_PAGE, Page, Window
from sightline.sources.retry_after import parse_retry_after

log = logging.getLogger(__name__)

TRIES = 5  # of one query
LONGEST_WAIT_SECONDS = 120.0  # beyond it, Airflow's next try is the better place to wait
PASSING_CODES = (10, 105, 106, 429)  # of `stat: fail`; other codes are for good
# Suffix of `url_` -> longer side in pixels where the answer does not tell; the original may be anything.
SIZES = {"sq": 75, "t": 100, "q": 150, "s": 240, "n": 320, "m": 500, "z": 640, "c": 800,
         "l": 1024, "h": 1600, "k": 2048, "o": 2**31}  # fmt: skip
EXTRAS = ",".join(["license", "date_upload", "owner_name", *(f"url_{size}" for size in SIZES)])


class _Passing(Exception):
    """A fault that another try may mend, perhaps after so many seconds."""

    def __init__(self, message: str, wait_seconds: float = 0) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class FlickrSearch:
    """Searches by one key: queries are spaced, faults that pass are met with patience.

    Calls carry the key alone, unsigned: Flickr's public methods need no secret.
    """

    def __init__(self, source: FlickrSource, key: str) -> None:
        import flickrapi

        logging.getLogger("flickrapi").setLevel(logging.CRITICAL)  # it would log the key
        self._source, self._key = source, key
        self._spacing_seconds = 3600 / source.queries_per_hour
        # Another task may have asked a moment ago, so that the first query waits as well.
        self._earliest = time.monotonic() + self._spacing_seconds
        self._session = _session()
        self._flickr = flickrapi.FlickrAPI(
            key, "", format="parsed-json", store_token=False, timeout=source.timeout_seconds
        )
        self._flickr.REST_URL = source.api
        self._flickr.flickr_oauth.session = self._session
        self._flickr.flickr_oauth.oauth = _unsigned(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def search(
        self, text: str, window: Window, page: int, photos_per_page: int = PHOTOS_PER_PAGE
    ) -> Page:
        """One page of a window; SourceError or, where all tries were in vain, ConnectionError."""
        query = {
            "text": text,
            "license": ",".join(map(str, self._source.licenses)),
            "media": "photos",
            "content_type": 1,  # photos, no screenshots
            "safe_search": 1,
            "sort": "date-posted-asc",
            "min_upload_date": window.start,
            "max_upload_date": window.end - 1,  # inclusive
            "extras": EXTRAS,
            "per_page": photos_per_page,
            "page": page,
        }
        for failed in range(1, TRIES + 1):
            try:
                return self._ask(query)
            except _Passing as fault:
                backoff = self._spacing_seconds * 2**failed * random.uniform(0.5, 1)
                wait, reason = max(fault.wait_seconds, backoff), str(fault)
            if failed == TRIES or wait > LONGEST_WAIT_SECONDS:
                break
            log.warning("Flickr: %s; asking again in %.1f s", reason, wait)
            time.sleep(wait)
        raise ConnectionError(
            f"Flickr's API at {self._source.api} did not answer ({reason}; tries: {failed}); "
            "the next try goes on where this one stopped."
        )

    def _ask(self, query: dict[str, Any]) -> Page:
        """One query; exceptions of ours only, since others' may tell the key."""
        import requests
        from flickrapi.exceptions import FlickrError

        self._wait_for_turn()
        try:
            answer = self._flickr.photos.search(api_key=self._key, **query)
            photos = [{**photo, "id": str(photo["id"])} for photo in answer["photos"]["photo"]]
            return Page(int(answer["photos"]["total"]), photos)
        except FlickrError as error:
            raise self._failure(error.code, self._scrub(str(error))) from None
        except requests.RequestException as error:
            raise _Passing(self._scrub(f"{type(error).__name__}: {error}")[:200]) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            kind = type(error).__name__
            raise _Passing(f"the answer is not one of Flickr's API: {kind}") from None

    def _failure(self, code: int | None, message: str) -> Exception:
        if code in PASSING_CODES or (code is not None and 500 <= code < 600):
            return _Passing(message)
        if code == 100:
            return SourceError(
                f"Flickr does not know the key of the Airflow connection {self._source.connection!r} "
                f"({message}); its password must be an API key from "
                "https://www.flickr.com/services/apps/create"
            )
        return SourceError(
            f"Flickr refuses the search ({message}); see the source in the dataset file."
        )

    def _scrub(self, text: str) -> str:
        """The text, as another's it may hold the key, without it."""
        for form in (self._key, quote(self._key), quote_plus(self._key)):
            text = text.replace(form, "***")
        return text

    def _wait_for_turn(self) -> None:
        time.sleep(max(0.0, self._earliest - time.monotonic()))
        self._earliest = time.monotonic() + self._spacing_seconds


def _unsigned(key: str) -> Any:
    """What flickrapi takes for its signature, and is none: without the secret it would be a wrong one."""
    from requests_oauthlib import OAuth1  # type: ignore[import-untyped]

    class Unsigned(OAuth1):  # type: ignore[misc]
        def __call__(self, request: Any) -> Any:
            return request

    return Unsigned(key)


def _session() -> Any:
    import requests

    def check_status(response: requests.Response, **_: Any) -> None:
        status = response.status_code
        if status == 200:
            return
        response.close()
        if status == 429 or status >= 500:
            raise _Passing(
                f"HTTP {status}", parse_retry_after(response.headers.get("Retry-After")) or 0
            )
        raise SourceError(
            f"Flickr's API at {response.url} answers HTTP {status}; see source.api in the dataset file."
        )

    session = requests.Session()
    session.hooks["response"].append(check_status)
    return session
