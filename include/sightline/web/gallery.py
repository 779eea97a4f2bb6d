"""The gallery of a dataset: pages of its images, with filters."""

import json
from dataclasses import asdict
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from starlette.responses import HTMLResponse

from sightline.web.access import Seeing
from sightline.web.rendering import page
from sightline.web.views import gallery
from sightline.web.views.gallery import Cursor, Filters

router = APIRouter(include_in_schema=False)
Text = Annotated[str, Query(max_length=2000)]


def chosen(
    label: Text = "",
    split: Text = "",
    partition: Text = "",
    licence: Text = "",
    issue: Text = "",
    predicted: Text = "",
    wrong: bool = False,
) -> Filters:
    """What a query asks to be shown."""
    return Filters(label, split, partition, licence, issue, predicted, wrong)


Chosen = Annotated[Filters, Depends(chosen)]


@router.get("/datasets/{dataset}/gallery")
def show_gallery(
    request: Request, visit: Seeing, filters: Chosen, after: Text = ""
) -> HTMLResponse:
    """A page of images; `after` is what the page before it gives."""
    cursor = _cursor(after)
    found = gallery.read_page(visit.catalog, filters, cursor)
    rest = None
    if found.after:
        place = json.dumps(list(asdict(found.after).values()))
        rest = "?" + urlencode({**filters.chosen, "after": place})
    return page(
        request,
        "gallery.html.j2",
        dataset=visit.dataset,
        found=found,
        filters=filters,
        form="?" + urlencode(filters.chosen),
        first="?" + urlencode(filters.chosen),
        rest=rest,
        is_first=cursor is None,
    )


@router.get("/datasets/{dataset}/gallery/filters")
def show_filters(request: Request, visit: Seeing, filters: Chosen) -> HTMLResponse:
    """The part of the gallery that says what can be chosen: counting it takes longer than a page."""
    return page(
        request,
        "filters.html.j2",
        dataset=visit.dataset,
        filters=filters,
        choices=gallery.read_choices(visit.catalog),
    )


def _cursor(text: str) -> Cursor | None:
    if not text:
        return None
    try:
        partition, uri, image_id = json.loads(text)
        return Cursor(str(partition), str(uri), str(image_id))
    except (ValueError, TypeError) as error:
        raise HTTPException(422, "after: not the end of a page; begin at the first one.") from error
