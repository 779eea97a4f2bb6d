"""The history of the checks, and Great Expectations' Data Docs."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from starlette.responses import HTMLResponse, Response

from sightline import storage
from sightline.web.access import Seeing
from sightline.web.rendering import page
from sightline.web.views.checks import read_validations

router = APIRouter(include_in_schema=False)
Number = Annotated[int, Query(ge=1, le=100_000)]
# Pages that another program has made: their own styles, and nothing that acts.
DATA_DOCS_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)


@router.get("/datasets/{dataset}/quality")
def show_quality(request: Request, visit: Seeing, number: Number = 1) -> HTMLResponse:
    """Validations, the newest first."""
    shown, pages = read_validations(visit.catalog, number)
    has_docs = storage.exists(storage.join(visit.catalog.checks, "index.html"))
    return page(
        request,
        "quality.html.j2",
        dataset=visit.dataset,
        shown=shown,
        pages_count=pages,
        number=number,
        has_docs=has_docs,
    )


@router.get("/datasets/{dataset}/checks/{path:path}")
def read_data_docs(visit: Seeing, path: str) -> Response:
    """A page of the Data Docs."""
    parts = path.split("/")
    url = storage.join(visit.catalog.checks, *parts)
    is_page = path.endswith(".html") and not any(part in ("", ".", "..") for part in parts)
    if not is_page or "\\" in path or not storage.exists(url):
        raise HTTPException(404, f"The Data Docs have no page {path!r}.")
    headers = {"Content-Security-Policy": DATA_DOCS_POLICY}
    return Response(storage.read_bytes(url), media_type="text/html; charset=utf-8", headers=headers)
