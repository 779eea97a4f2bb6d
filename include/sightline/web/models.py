"""The models of a dataset: all of them, two side by side, one alone, and who lets one serve."""

import logging
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse

from sightline import publishing, storage
from sightline.catalog import Catalog
from sightline.reporting.pages import render_plot, render_section
from sightline.web.access import Acting, Permission, Seeing, Visit
from sightline.web.rendering import page
from sightline.web.views import lineage_drawing, model, models

log = logging.getLogger(__name__)

router = APIRouter(include_in_schema=False)
Label = Annotated[str, Query(max_length=1000)]


class Reason(BaseModel):
    """Why another model is to serve."""

    reason: str = Field(min_length=3, max_length=1000)


@router.get("/datasets/{dataset}/models")
def list_models(request: Request, visit: Seeing) -> HTMLResponse:
    """All models over time."""
    return page(
        request,
        "models.html.j2",
        dataset=visit.dataset,
        found=models.list_models(visit.catalog),
        kinds=models.KINDS,
        may_act=visit.may(Permission.ACT),
        plot=render_plot,
    )


@router.get("/datasets/{dataset}/models/compare")
def compare_models(request: Request, visit: Seeing, left: str, right: str) -> HTMLResponse:
    """Two models side by side."""
    return page(
        request,
        "models_compared.html.j2",
        dataset=visit.dataset,
        found=models.compare(visit.catalog, left, right),
    )


@router.get("/datasets/{dataset}/models/{version}")
def show_model(request: Request, visit: Seeing, version: str) -> HTMLResponse:
    """One model."""
    found = model.read_model(visit.catalog, version)
    return page(
        request,
        "model.html.j2",
        dataset=visit.dataset,
        found=found,
        drawing=lineage_drawing.draw(visit.catalog, found.model, found.row.standing),
        report=_report(visit.catalog, version),
        box_width=lineage_drawing.BOX_WIDTH,
        box_height=lineage_drawing.BOX_HEIGHT,
        kinds=models.KINDS,
        may_act=visit.may(Permission.ACT),
        section=render_section,
        plot=render_plot,
    )


@router.get("/datasets/{dataset}/models/{version}/photos")
def show_confused(
    request: Request, visit: Seeing, version: str, truth: Label, predicted: Label
) -> HTMLResponse:
    """The test photos behind a cell of the confusion matrix."""
    return page(
        request,
        "model_photos.html.j2",
        dataset=visit.dataset,
        version=version,
        found=model.read_confused(visit.catalog, version, truth, predicted),
    )


@router.post("/datasets/{dataset}/models/{version}/promote")
def promote(visit: Acting, version: str, why: Reason) -> dict[str, str]:
    """Let a model serve."""
    before = publishing.promote(visit.catalog, version, visit.visitor.name, why.reason)
    return _tell(visit, version, before, why)


@router.post("/datasets/{dataset}/roll-back")
def roll_back(visit: Acting, why: Reason) -> dict[str, str]:
    """Let the champion before serve again."""
    name = visit.visitor.name
    before, now = publishing.roll_back(visit.catalog, None, name, why.reason)
    return _tell(visit, now, before, why)


def _report(catalog: Catalog, version: str) -> str | None:
    """The name of the model's report, where it has one."""
    name = f"{version}.html"
    return name if storage.exists(storage.join(catalog.reports, name)) else None


def _tell(visit: Visit, now: str, before: str | None, why: Reason) -> dict[str, str]:
    log.info(
        "%s: %s serves in place of %s, by %s: %s",
        visit.dataset, now, before, visit.visitor.name, why.reason,
    )  # fmt: skip
    instead = f" in place of {before}" if before else ""
    return {"detail": f"{now} serves{instead}."}
