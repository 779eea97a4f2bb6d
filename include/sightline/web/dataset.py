"""A dataset at a glance: classes, completeness of the harvest, issues."""

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from sightline.web.access import Seeing
from sightline.web.rendering import page
from sightline.web.views.overview import read_overview

router = APIRouter(include_in_schema=False)


@router.get("/datasets/{dataset}")
def show_dataset(request: Request, visit: Seeing) -> HTMLResponse:
    """The dataset's own page."""
    found = read_overview(visit.catalog)
    return page(request, "dataset.html.j2", dataset=visit.dataset, found=found)
