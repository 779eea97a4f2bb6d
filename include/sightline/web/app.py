"""The application: the pages together, each with its permission, below any prefix; errors in a sentence."""

import logging
from collections.abc import Sequence
from http import HTTPStatus

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.responses import FileResponse, JSONResponse, Response

import sightline
from sightline.errors import SightlineError, StorageError
from sightline.web import (
    dataset,
    datasets,
    documents,
    duplicates,
    embedding_map,
    gallery,
    image,
    labels,
    models,
    quality,
    rejects,
    runs,
    thumbnails,
    try_it,
)
from sightline.web.access import Access, Entering
from sightline.web.rendering import KEPT, STATIC, page
from sightline.web.security import HEADERS, READING, SecureHeaders, is_of_this_site

log = logging.getLogger(__name__)

PAGES = tuple(
    one.router
    for one in (
        datasets, dataset, gallery, thumbnails, image, rejects, duplicates, labels, embedding_map,
        quality, models, try_it, runs, documents,
    )
)  # fmt: skip
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def refuse_other_sites(request: Request) -> None:
    """No change that another site's page has asked for."""
    if not is_of_this_site(request):
        raise HTTPException(403, "A page of another site has asked for this change.")


def create_app(access: Access, pages: Sequence[APIRouter] = PAGES) -> FastAPI:
    """The application with some pages, for those whom `access` lets in."""
    app = FastAPI(
        title="Sightline",
        version=sightline.__version__,
        docs_url=None,  # its page loads from other sites
        redoc_url=None,
        openapi_url=None,  # served below, to those who have logged in
        dependencies=[Depends(refuse_other_sites)],
    )
    app.state.access = access
    app.add_middleware(SecureHeaders)
    for router in (frame, *pages):
        app.include_router(router)
    app.add_exception_handler(AnyHTTPException, _tell_http)
    app.add_exception_handler(RequestValidationError, _tell_invalid)
    app.add_exception_handler(SightlineError, _tell_ours)
    app.add_exception_handler(Exception, _tell_unexpected)
    return app


frame = APIRouter(include_in_schema=False)


@frame.get("/static/{name}")
def read_static(name: str, visitor: Entering) -> Response:
    """A style sheet, a script or a picture of the pages."""
    if name not in {path.name for path in STATIC.iterdir()}:
        raise HTTPException(404, f"There is no file {name!r}.")
    kind = MEDIA_TYPES[STATIC.joinpath(name).suffix]
    return FileResponse(STATIC / name, media_type=kind, headers={"Cache-Control": KEPT})


@frame.get("/api/openapi.json")
def read_openapi(request: Request, visitor: Entering) -> JSONResponse:
    """What programs may ask for."""
    return JSONResponse(request.app.openapi())


def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    return _tell(request, error.status_code, str(error.detail), error.headers)


def _tell_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _tell(request, 422, f"{first['loc'][-1]}: {first['msg']}.")


def _tell_ours(request: Request, error: Exception) -> Response:
    if isinstance(error, StorageError):
        return _tell(request, 503, str(error))
    return _tell(request, 404 if request.method in READING else 409, str(error))


def _tell_unexpected(request: Request, error: Exception) -> Response:
    answer = _tell(request, 500, "Something went wrong here; the server's log says what.")
    answer.headers.update(HEADERS)  # this answer is made outside of all middleware
    return answer


def _tell(request: Request, status: int, sentence: str, headers: object = None) -> Response:
    """A sentence, as a page for people and as JSON for programs."""
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": sentence}, status, headers)  # type: ignore[arg-type]
    title = HTTPStatus(status).phrase
    return page(request, "error.html.j2", status, title=title, sentence=sentence, code=status)
