"""A server that speaks Kaggle's protocol as its official client does, with two small data sets."""

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from tests.conftest import web_server
from tests.servers.answering import JsonHandler

TOKEN = "KGAT_a-secret-token"


@dataclass
class KaggleServer:
    """What is offered, and how it fails: statuses for coming calls, broken-off and expired downloads."""

    address: str = ""
    datasets: dict[str, dict[int, bytes]] = field(default_factory=dict)  # by version
    competitions: dict[str, dict[str, bytes]] = field(default_factory=dict)  # by file
    closed: set[str] = field(default_factory=set)  # whose rules nobody has accepted
    statuses: list[int] = field(default_factory=list)  # answers to the next calls
    resets: int = 0  # downloads to come that break off half-way
    expiries: int = 0  # signed addresses to come that are out of date
    calls: list[tuple[str, str]] = field(default_factory=list)  # path, Authorization
    objects: dict[str, bytes] = field(default_factory=dict)  # behind signed addresses


@contextmanager
def kaggle_server(token: str = TOKEN) -> Iterator[KaggleServer]:
    """A server on a free port that offers moltean/fruits and sf-dl-car-classification."""
    state = KaggleServer()
    state.datasets["moltean/fruits"] = {1: fruits(("Apple 1",)), 2: fruits()}
    state.competitions["sf-dl-car-classification"] = cars()

    class Handler(_Handler):
        served, expected = state, f"Bearer {token}"

    with web_server(Handler) as state.address:
        yield state


class _Handler(JsonHandler):
    served: ClassVar[KaggleServer]
    expected: ClassVar[str]

    def do_POST(self) -> None:  # noqa: N802  (the library's name)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        authorization = self.headers.get("Authorization", "")
        self.served.calls.append((self.path, authorization))
        _, _, _, service, method = self.path.split("/")
        if self.served.statuses:
            self.answer_json({"message": "told to"}, self.served.statuses.pop(0))
        elif authorization != self.expected:
            self.answer_json({"code": 401, "message": f"Unauthenticated {authorization}"}, 401)
        elif service.startswith("datasets"):
            self._dataset(method, body)
        else:
            self._competition(method, body)

    def _dataset(self, method: str, body: dict[str, Any]) -> None:
        reference = f"{body['ownerSlug']}/{body['datasetSlug']}"
        versions = self.served.datasets.get(reference)
        if versions is None:
            self.answer_json({"code": 404, "message": "Not found"}, 404)
        elif method == "GetDataset":
            self.answer_json(
                {
                    "ref": reference,
                    "totalBytes": len(versions[max(versions)]),
                    "currentVersionNumber": max(versions),
                    "versions": [{"versionNumber": number} for number in versions],
                }
            )
        else:
            version = body.get("datasetVersionNumber") or max(versions)
            self._redirect(f"/storage/{reference}/{version}.zip", versions[version])

    def _competition(self, method: str, body: dict[str, Any]) -> None:
        name = body["competitionName"]
        files = self.served.competitions.get(name)
        if files is None:
            self.answer_json({"code": 404, "message": "Not found"}, 404)
        elif name in self.served.closed:
            self.answer_json({"code": 403, "message": "You must accept the rules"}, 403)
        elif method == "ListDataFiles":
            names = list(files)
            start = int(body.get("pageToken") or 0)
            page = [
                {"name": one, "totalBytes": len(files[one])} for one in names[start : start + 2]
            ]
            more = {"nextPageToken": str(start + 2)} if start + 2 < len(names) else {}
            self.answer_json({"files": page, **more})
        else:
            self._redirect(f"/storage/{name}/{body['fileName']}", files[body["fileName"]])

    def do_GET(self) -> None:  # noqa: N802
        """The storage behind the signed addresses."""
        state, asked = self.served, self.headers.get("Range")
        content = state.objects[self.path.split("?")[0]]
        if state.expiries and self._is_download() and asked:
            state.expiries -= 1
            self.answer_json({"error": "expired"}, 403)
            return
        start = int(asked[6:-1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", '"v1"')
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        breaks_off = state.resets and self._is_download()
        state.resets -= bool(breaks_off)
        body = content[start:]
        try:
            self.wfile.write(body[: len(body) // 2] if breaks_off else body)
        except OSError:
            self.close_connection = True  # the client only wanted the address

    def _is_download(self) -> bool:
        """Whether the bytes are wanted; the official client follows the redirect all the same."""
        return self.headers.get("Accept-Encoding") == "identity"

    def _redirect(self, path: str, content: bytes) -> None:
        self.served.objects[path] = content
        self.send_response(302)
        self.send_header("Location", f"{self.served.address}{path}?X-Goog-Signature=signed-secret")
        self.send_header("Content-Length", "0")
        self.end_headers()


def fruits(classes: tuple[str, ...] = ("Apple 1", "Banana 1"), images: int = 4) -> bytes:
    """moltean/fruits as it is laid out: two sizes side by side, one of them smaller."""
    root = "fruits-360_100x100/fruits-360"
    files = {}
    for number, label in enumerate(classes):
        for index in range(images):
            picture = _jpeg(number, 100 * number + index)
            files[f"{root}/Training/{label}/r_{index}_100.jpg"] = picture
            if index % 2 == 0:
                files[f"{root}/Test/{label}/{index}_100.jpg"] = _jpeg(
                    number, 5000 + 100 * number + index
                )
                files[f"fruits-360_original-size/Training/{label}/{index}.jpg"] = picture
                files[f"fruits-360_original-size/Test/{label}/{index}.jpg"] = picture
    return _zip(files | {f"{root}/LICENSE": b"MIT", f"{root}/papers/fruits.pdf": b"%PDF"})


def cars(images: int = 3) -> dict[str, bytes]:
    """sf-dl-car-classification's files: ten classes, and images without labels to predict."""
    train, labels = {}, []
    for label in range(10):
        for index in range(images):
            name = f"{100_000 + 100 * label + index}.jpg"
            train[f"train/{label}/{name}"] = _jpeg(label, 10_000 + 100 * label + index)
            labels.append((name, str(label)))
    test = {f"test_upload/{number}.jpg": _jpeg(number % 10, 20_000 + number) for number in range(5)}
    sample = [(name.split("/")[1], "0") for name in test]
    return {
        "sample-submission.csv": _table(sample),
        "test.zip": _zip(test),
        "train.csv": _table(labels),
        "train.zip": _zip(train),
    }


def _jpeg(colour: int, seed: int, side: int = 48) -> bytes:
    """A noisy picture around the colour of its class."""
    rng = np.random.default_rng(seed)
    base = np.array([(67 * colour) % 256, (131 * colour + 80) % 256, (29 * colour + 160) % 256])
    pixels = rng.normal(base, 40, (6, 6, 3)).clip(0, 255).astype("uint8")
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _table(rows: list[tuple[str, str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([("Id", "Category"), *rows])
    return text.getvalue().encode()
