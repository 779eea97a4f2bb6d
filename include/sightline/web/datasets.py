"""The datasets that a person may see, a card each, with what they may do."""

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from sightline.web.access import Entering, Permission, visible_datasets
from sightline.web.rendering import page
from sightline.web.views.cards import Card, read_card
from sightline.web.views.sparkline import draw_sparkline

router = APIRouter(include_in_schema=False)


@router.get("/")
def list_datasets(request: Request, visitor: Entering) -> HTMLResponse:
    """All datasets by name, those with photos first."""
    cards = [read_card(name) for name in visible_datasets(visitor)]
    cards.sort(key=lambda card: card.images == 0)
    return page(
        request,
        "datasets.html.j2",
        cards=cards,
        lines={card.dataset: draw_sparkline(card.trend) for card in cards},
        may_run=[card.dataset for card in cards if _may(visitor, Permission.RUN, card)],
        may_act=[card.dataset for card in cards if _may(visitor, Permission.ACT, card)],
    )


def _may(visitor: Entering, permission: Permission, card: Card) -> bool:
    return card.problem is None and visitor.may(permission, card.dataset)
