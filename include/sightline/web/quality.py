"""The history of the checks."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse

from sightline import storage
from sightline.web.access import Seeing
from sightline.web.rendering import page
from sightline.web.views.checks import read_validations

router = APIRouter(include_in_schema=False)
Number = Annotated[int, Query(ge=1, le=100_000)]


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
