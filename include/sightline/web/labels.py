"""Suspicious labels, to be accepted or corrected; what is said counts from the next training on."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import HTMLResponse

from sightline import label_overrides
from sightline.label_overrides import Decision
from sightline.web.access import Acting, Permission, Seeing
from sightline.web.rendering import page
from sightline.web.views.doubts import read_decisions, read_doubts

router = APIRouter(include_in_schema=False)


class Said(BaseModel):
    """What a person says that an image shows; nothing: what was said before counts no longer."""

    label: str | None


@router.get("/datasets/{dataset}/labels")
def show_labels(
    request: Request, visit: Seeing, after: Annotated[int, Query(ge=0)] = 0
) -> HTMLResponse:
    """The labels on which nobody has decided, the most suspicious first, and what was decided."""
    decisions, count = read_decisions(visit.catalog)
    return page(
        request,
        "labels.html.j2",
        dataset=visit.dataset,
        found=read_doubts(visit.catalog, after),
        decisions=decisions,
        decided=count,
        may_act=visit.may(Permission.ACT),
        is_first=after == 0,
    )


@router.post("/datasets/{dataset}/labels/{image_id}")
def decide_label(visit: Acting, image_id: str, said: Said) -> dict[str, str | None]:
    """Keep what somebody says of an image's label."""
    label_overrides.decide(visit.catalog, Decision(image_id, said.label, visit.visitor.name))
    return {"label": said.label}
