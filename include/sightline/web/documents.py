"""The reports and the Data Docs of a dataset, behind the same login as the pages.

They are pages of their own, with their style inside; only scripts that this package brings may run in them,
so that a label or a file's name that got into one can do nothing.
"""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter, HTTPException
from starlette.responses import Response

import sightline
from sightline import storage
from sightline.web.access import Seeing

router = APIRouter(include_in_schema=False)

NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_.-]*"
)  # of a file or folder; none is hidden, none leads up
MEDIA_TYPES = {".html": "text/html", ".json": "application/json", ".txt": "text/plain"}
HANDLERS = ("hideSucceededValidations()", "showAllValidations()")  # on Data Docs' two buttons


@router.get("/datasets/{dataset}/reports/{name}")
def read_report(visit: Seeing, name: str) -> Response:
    """A report; `latest.html` is the champion's, or the newest candidate's."""
    return _document(visit.catalog.reports, [name])


@router.get("/datasets/{dataset}/checks/{path:path}")
def read_check(visit: Seeing, path: str) -> Response:
    """A page of the Data Docs; `index.html` lists them."""
    return _document(visit.catalog.checks, path.split("/"))


def _document(folder: str, path: list[str]) -> Response:
    media_type = MEDIA_TYPES.get(Path(path[-1]).suffix)
    if media_type is None or not all(NAME.fullmatch(name) for name in path):
        raise HTTPException(404, f"There is no document {'/'.join(path)!r}.")
    try:
        content = storage.read_bytes(storage.join(folder, *path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise HTTPException(404, f"There is no document {'/'.join(path)!r} yet.") from None
    headers = {"Content-Security-Policy": document_policy()}
    return Response(content, media_type=media_type, headers=headers)


@cache
def document_policy() -> str:
    """Nothing but the document's own style and pictures, and the scripts that we have written."""
    offline = Path(sightline.__file__).parent.joinpath("validation", "offline.html").read_text()
    scripts = re.findall(r"<script>(.*?)</script>", offline, re.DOTALL)
    hashes = " ".join(_hash(script) for script in [*scripts, *HANDLERS])
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'unsafe-hashes' {hashes}; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'"
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
