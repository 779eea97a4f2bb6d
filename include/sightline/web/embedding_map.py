"""The map of a dataset's embeddings, which the browser draws."""

from dataclasses import asdict

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import HTMLResponse, JSONResponse

from sightline.web.access import Seeing
from sightline.web.rendering import page
from sightline.web.views.embedding_map import MOST_POINTS, read_points

router = APIRouter(include_in_schema=False)


@router.get("/datasets/{dataset}/map")
def show_map(request: Request, visit: Seeing) -> HTMLResponse:
    """The page around the map."""
    return page(request, "map.html.j2", dataset=visit.dataset, most=MOST_POINTS)


@router.get("/datasets/{dataset}/map/points")
def read_map_points(visit: Seeing) -> JSONResponse:
    """The points: ids, places between 0 and 1, and classes."""
    points = read_points(visit.catalog)
    if points is None:
        raise HTTPException(404, "There are too few embeddings for a map; run the ingest.")
    return JSONResponse(asdict(points))
