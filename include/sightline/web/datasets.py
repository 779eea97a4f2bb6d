"""The datasets that a person may see, a card each."""

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from sightline.web.access import Entering, visible_datasets
from sightline.web.rendering import page

router = APIRouter(include_in_schema=False)


@router.get("/")
def list_datasets(request: Request, visitor: Entering) -> HTMLResponse:
    """All datasets."""
    return page(request, "datasets.html.j2", names=visible_datasets(visitor))
