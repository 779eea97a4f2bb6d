"""Copies beside what they are copies of."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse

from sightline.web.access import Seeing
from sightline.web.rendering import page
from sightline.web.views.copies import read_pairs

router = APIRouter(include_in_schema=False)
Number = Annotated[int, Query(ge=1, le=100_000)]


@router.get("/datasets/{dataset}/duplicates")
def show_duplicates(
    request: Request,
    visit: Seeing,
    kind: Literal["near", "exact"] = "near",
    number: Number = 1,
) -> HTMLResponse:
    """A page of pairs: near-duplicates, or the same bytes under two addresses."""
    found = read_pairs(visit.catalog, kind, number)
    return page(request, "duplicates.html.j2", dataset=visit.dataset, found=found, number=number)
