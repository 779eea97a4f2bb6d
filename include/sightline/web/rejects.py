"""What could not be taken, by reason."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse

from sightline.web.access import Seeing
from sightline.web.rendering import page
from sightline.web.views.refusals import read_rejects

router = APIRouter(include_in_schema=False)
Number = Annotated[int, Query(ge=1, le=100_000)]


@router.get("/datasets/{dataset}/rejects")
def show_rejects(
    request: Request, visit: Seeing, reason: str = "", number: Number = 1
) -> HTMLResponse:
    """A page of rejects, of one reason or of all."""
    found = read_rejects(visit.catalog, reason, number)
    return page(
        request,
        "rejects.html.j2",
        dataset=visit.dataset,
        found=found,
        reason=reason,
        number=number,
    )
