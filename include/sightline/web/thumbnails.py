"""Pictures of single images. A browser keeps them and asks each time whether they still may be shown: so one
that was taken down is gone at once.
"""

from typing import Literal

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from sightline.web.access import Seeing
from sightline.web.views import thumbnails

router = APIRouter(include_in_schema=False)


@router.get("/datasets/{dataset}/thumbnails/{image_id}")
def read_thumbnail(
    request: Request, visit: Seeing, image_id: str, size: Literal["small", "large"] = "small"
) -> Response:
    """A small or a large picture of an image."""
    kept = {"ETag": f'"{image_id[:16]}-{size}"', "Cache-Control": "private, no-cache"}
    is_known = request.headers.get("if-none-match") == kept["ETag"]
    if is_known and thumbnails.is_held(visit.catalog, image_id):
        return Response(status_code=304, headers=kept)
    drawn = thumbnails.draw(visit.catalog, image_id, size)
    if drawn is None:
        raise HTTPException(404, "There is no picture of this image; it may have been taken down.")
    return Response(drawn.content, media_type=drawn.media_type, headers=kept)
