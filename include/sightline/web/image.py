"""One image: every fact that is known of it, its way through the tables, and those that are most alike."""

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from sightline.tracing.image import trace_image
from sightline.web.access import Permission, Seeing
from sightline.web.rendering import page
from sightline.web.views.doubts import read_labels
from sightline.web.views.image_facts import facts_of, issues_of, web_address
from sightline.web.views.neighbours import find_neighbours

router = APIRouter(include_in_schema=False)


@router.get("/datasets/{dataset}/images/{image_id}")
def show_image(request: Request, visit: Seeing, image_id: str) -> HTMLResponse:
    """An image by its id, or the only one whose id begins so."""
    trace = trace_image(visit.catalog, image_id)
    may_act = visit.may(Permission.ACT)
    return page(
        request,
        "image.html.j2",
        dataset=visit.dataset,
        trace=trace,
        facts=facts_of(trace),
        issues=issues_of(visit.catalog, trace),
        landing=web_address(trace),
        may_act=may_act,
        labels=read_labels(visit.catalog) if may_act else [],
    )


@router.get("/datasets/{dataset}/images/{image_id}/neighbours")
def show_neighbours(request: Request, visit: Seeing, image_id: str) -> HTMLResponse:
    """The part of an image's page that takes a pass over all embeddings."""
    return page(
        request,
        "neighbours.html.j2",
        dataset=visit.dataset,
        found=find_neighbours(visit.catalog, image_id),
    )
