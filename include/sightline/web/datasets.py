"""The datasets that a person may see, a card each, with what they may do."""

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import HTMLResponse, Response

from sightline import images
from sightline.web.access import Entering, Permission, Seeing, visible_datasets
from sightline.web.rendering import KEPT, page
from sightline.web.views.cards import Card, read_card, read_sample
from sightline.web.views.samples import draw_square
from sightline.web.views.sparkline import draw_sparkline

router = APIRouter(include_in_schema=False)

STRIP_PIXELS = 144  # a side, for screens with two or three dots a pixel


@router.get("/")
def list_datasets(request: Request, visitor: Entering) -> HTMLResponse:
    """All datasets."""
    cards = [read_card(name) for name in visible_datasets(visitor)]
    return page(
        request,
        "datasets.html.j2",
        cards=cards,
        lines={card.dataset: draw_sparkline(card.trend) for card in cards},
        may_run=[card.dataset for card in cards if _may(visitor, Permission.RUN, card)],
        may_act=[card.dataset for card in cards if _may(visitor, Permission.ACT, card)],
    )


@router.get("/datasets/{dataset}/samples/{image_id}")
def read_strip_photo(visit: Seeing, image_id: str) -> Response:
    """A photo of a card's strip."""
    found = read_sample(visit.catalog, image_id)
    if found is None:
        raise HTTPException(404, f"No card shows an image {image_id!r}.")
    try:
        small = draw_square(found, STRIP_PIXELS)
    except images.Rejected as error:
        raise HTTPException(404, f"The image cannot be shown: {error}.") from error
    headers = {"Cache-Control": KEPT}  # an image's id is the hash of its bytes
    return Response(small.content, media_type=small.media_type, headers=headers)


def _may(visitor: Entering, permission: Permission, card: Card) -> bool:
    return card.problem is None and visitor.may(permission, card.dataset)
