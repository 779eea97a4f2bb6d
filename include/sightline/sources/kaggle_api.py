"""Kaggle's wire, through its official client: what there is, whether we may, and signed addresses.

The client is configured as an object: nothing is put into the environment and nothing is taken from it
or from ~/.kaggle, which `import kaggle` would do. It answers downloads with a redirect to a signed URL;
the bytes come through `downloads`, which resumes also when the URL expires: the client's own download
keeps one URL for all of its tries.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from sightline.errors import SourceError
from sightline.source_config import KaggleSource
from sightline.sources.access import Access, Credential
from sightline.sources.downloads import Mirror, MirrorBusy

TIMEOUT_SECONDS = (10.0, 60.0)  # to connect, of silence
ATTEMPTS = 4
WAIT_SECONDS = 0.5  # after the first try; doubled after each
PAGE_SIZE = 200


@dataclass(frozen=True)
class RemoteFile:
    """A file that Kaggle offers: the name to keep it under, its own name there, bytes where known."""

    kept_name: str
    name: str | None  # None: everything in one zip
    size_bytes: int | None
    version: int | None = None


class Api:
    """The calls for one dataset or competition."""

    def __init__(self, source: KaggleSource, client: Any) -> None:
        self._source = source
        self._client = client

    def files(self) -> list[RemoteFile]:
        """What has to be downloaded; SourceError where it does not exist or we may not."""
        return self._dataset_files() if self._source.dataset else self._competition_files()

    def mirror(self, file: RemoteFile) -> Mirror:
        """A function that asks for a fresh signed URL of the file."""

        def signed_url() -> str:
            try:
                with closing(self._call(lambda: self._download(file))) as response:
                    return str(response.url)
            except ConnectionError as error:
                raise MirrorBusy(str(error)) from None

        return signed_url

    def _dataset_files(self) -> list[RemoteFile]:
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        reference, pinned = str(self._source.dataset), self._source.version
        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = reference.split("/")
        found = self._call(lambda: self._client.datasets.dataset_api_client.get_dataset(request))
        newest = int(found.current_version_number or 1)
        versions = {int(one.version_number) for one in found.versions} or set(range(1, newest + 1))
        if pinned is not None and pinned not in versions:
            raise SourceError(
                f"Kaggle's dataset {reference} has no version {pinned}; the newest is {newest}: "
                "correct source.version."
            )
        version = pinned or newest
        name = f"{reference.replace('/', '-')}-v{version}.zip"
        # The size is the newest version's; another version's is not told.
        size = found.total_bytes if version == newest else None
        return [RemoteFile(name, None, size, version)]

    def _competition_files(self) -> list[RemoteFile]:
        """The zips and the tables one by one; everything in one zip where images lie about loose."""
        from kagglesdk.competitions.types.competition_api_service import ApiListDataFilesRequest

        name = str(self._source.competition)
        request = ApiListDataFilesRequest()
        request.competition_name, request.page_size = name, PAGE_SIZE
        api = self._client.competitions.competition_api_client
        found: list[Any] = []
        while True:
            page = self._call(lambda: api.list_data_files(request))
            found += page.files
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        wanted = [one for one in found if one.name.endswith(".zip")]
        if not wanted:
            return [RemoteFile(f"{name}.zip", None, sum(one.total_bytes for one in found))]
        tables = (self._source.labels, self._source.submission)
        wanted += [one for one in found if one.name in tables]
        return [
            RemoteFile(f"{name}-{one.name.replace('/', '-')}", one.name, one.total_bytes)
            for one in wanted
        ]

    def _download(self, file: RemoteFile) -> Any:
        """The client's answer, which has followed the redirect and not read on."""
        from kagglesdk.competitions.types import competition_api_service as competitions
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        if self._source.dataset:
            request = ApiDownloadDatasetRequest()
            request.owner_slug, request.dataset_slug = self._source.dataset.split("/")
            request.dataset_version_number = file.version
            return self._client.datasets.dataset_api_client.download_dataset(request)
        api = self._client.competitions.competition_api_client
        if file.name is None:
            everything = competitions.ApiDownloadDataFilesRequest()
            everything.competition_name = self._source.competition
            return api.download_data_files(everything)
        one = competitions.ApiDownloadDataFileRequest()
        one.competition_name, one.file_name = self._source.competition, file.name
        return api.download_data_file(one)

    def _call(self, call: Callable[[], Any]) -> Any:
        """A call's answer; SourceError for a refusal, ConnectionError after several tries."""
        problem = ""
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except requests.HTTPError as error:
                status = _status(error)
                if status != 429 and status < 500:
                    raise SourceError(self._refusal(status)) from None  # it shows a signed URL
                problem = f"it answered {status}"
            except requests.RequestException as error:
                problem = type(error).__name__
            if attempt + 1 < ATTEMPTS:
                time.sleep(WAIT_SECONDS * 2**attempt)
        raise ConnectionError(f"Kaggle could not be asked in {ATTEMPTS} tries: {problem}.")

    def _refusal(self, status: int) -> str:
        source = self._source
        thing = (
            f"dataset {source.dataset}" if source.dataset else f"competition {source.competition}"
        )
        if status == 401:
            return (
                f"Kaggle does not accept the token of the connection {source.connection}; make a new "
                "one at https://www.kaggle.com/settings and store it there."
            )
        if status == 403 and source.competition:
            rules = f"https://www.kaggle.com/competitions/{source.competition}/rules"
            return f"Kaggle's {thing} is closed to you; accept the rules at {rules}."
        if status == 403:
            return f"Kaggle's {thing} is closed to you; ask its owner, or try another account."
        if status == 404:
            return f"Kaggle has no {thing}; correct its name in the dataset file."
        return f"Kaggle refuses the {thing} with status {status}; look at it on www.kaggle.com."


@contextmanager
def opened(source: KaggleSource, access: Access) -> Iterator[Api]:
    """The calls, with the login of the source's connection; SourceError where there is none."""
    credential = access.credential(source.connection)
    if credential is None or not credential.password:
        raise SourceError(
            f"There is no connection {source.connection} with a Kaggle token; make a token at "
            "https://www.kaggle.com/settings and store it as that connection's password."
        )
    with _client(source, credential) as client:
        yield Api(source, client)


def _client(source: KaggleSource, credential: Credential) -> Any:
    from kagglesdk.kaggle_client import KaggleClient
    from kagglesdk.kaggle_env import KaggleEnv
    from kagglesdk.kaggle_http_client import KaggleHttpClient

    environment = KaggleEnv.LOCAL if source.api else KaggleEnv.PROD
    # Given as a token too, or the client would look for one in the environment and in ~/.kaggle.
    client = KaggleClient(environment, api_token=credential.password, user_agent="sightline")
    http = client.http_client()
    if source.api:
        http._endpoint = source.api.rstrip("/")  # the client knows servers by name only
    session = http._init_session() or http._session
    session.mount("http://", _Impatient())
    session.mount("https://", _Impatient())
    if credential.login and not credential.password.startswith("KGAT_"):
        session.auth = (credential.login, credential.password)
    else:
        session.auth = KaggleHttpClient.BearerAuth(credential.password)
    return client


class _Impatient(HTTPAdapter):
    """The client sets no timeout of its own."""

    def send(self, *args: Any, **options: Any) -> requests.Response:
        return super().send(*args, **{**options, "timeout": TIMEOUT_SECONDS})


def _status(error: requests.HTTPError) -> int:
    """The status of the answer, or of its body, which may say more."""
    response = error.response
    if response is None:
        return 500
    with suppress(ValueError):  # a proxy's page
        body = response.json()
        if isinstance(body, dict) and isinstance(body.get("code"), int):
            return int(body["code"])
    return response.status_code
