"""Try it: hand in a photo, see what the champion makes of it; for programs POST /api/predict.

No photo is kept: it is in memory while it is looked at, here and in the predictor's process.
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, Response

from sightline import models
from sightline.errors import PhotoRefused, ResourceError
from sightline.serving.predictor import Predictor
from sightline.serving.questions import Answer, Question
from sightline.web.access import Entering, Seeing, sees
from sightline.web.rendering import page
from sightline.web.uploads import UPLOAD_BYTES, Turns
from sightline.web.views.models import looks_at_several_views

router = APIRouter()


class Options(BaseModel):
    """The fields beside the photo."""

    model_config = ConfigDict(extra="forbid")

    dataset: str = Field(description="whose champion is asked")
    top: int = Field(5, ge=1, le=20, description="classes to name, likeliest first")
    augmented: bool | None = Field(
        None,
        description="with test-time augmentation, where the model has it; left out: as it is published",
    )
    neighbours: Annotated[int, Field(ge=0, le=12)] = Field(
        0, description="training photos to name that are most alike"
    )
    pictures: bool = Field(
        False, description="what the model sees, and the neighbours, as data URIs"
    )


FORM = Options.model_json_schema()
FORM["properties"]["file"] = {
    "type": "string",
    "format": "binary",
    "description": f"the photo: JPEG, PNG, GIF, BMP or WEBP, {UPLOAD_BYTES // 2**20} MiB at most",
}
FORM["required"] = [*FORM["required"], "file"]
REFUSALS: dict[int | str, dict[str, Any]] = {
    409: {"description": "The dataset has no champion"},
    413: {"description": "The photo is too large"},
    422: {"description": "It is no photo that can be looked at, or an option is wrong"},
    503: {"description": "The predictor has failed; the next photo finds another one"},
}


class Serving:
    """What an application answers photos with: one process, whose turn one photo has at a time."""

    def __init__(self, shows_photos: bool = True) -> None:
        self.shows_photos = shows_photos  # training photos, beside the one that was handed in
        self.predictor = Predictor()
        self.uploads = Turns()
        self._turn = asyncio.Lock()  # so that waiting photos hold no threads of the server

    async def ask(self, question: Question, content: bytes) -> Answer:
        """As `Predictor.ask`."""
        async with self._turn:
            return await run_in_threadpool(self.predictor.ask, question, content)


@router.get("/datasets/{dataset}/try-it", name="show_try_it", include_in_schema=False)
def show_try_it(request: Request, visit: Seeing) -> HTMLResponse:
    """The page."""
    champion = models.read_champion(visit.catalog)
    return page(
        request,
        "try_it.html.j2",
        dataset=visit.dataset,
        champion=champion,
        has_augmentation=champion is not None and looks_at_several_views(champion),
        shows_photos=serving_of(request.app).shows_photos,
        most_bytes=UPLOAD_BYTES,
    )


@router.post(
    "/api/predict",
    response_model=Answer,
    responses=REFUSALS,
    openapi_extra={
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}
    },
)
async def predict(request: Request, visitor: Entering) -> Any:
    """What a dataset's champion says of a photo, by the very steps that made its published answers. The photo
    is not kept."""
    serving = serving_of(request.app)
    async with serving.uploads.reading(request) as upload:
        options = _options(upload.fields)
        sees(options.dataset, visitor)
        question = Question(
            options.dataset,
            options.top,
            options.augmented,
            options.neighbours if serving.shows_photos else 0,
            options.pictures,
        )
        try:
            return await serving.ask(question, upload.content)
        except PhotoRefused as error:
            return _refusal(422, str(error), reason=error.reason)
        except ResourceError as error:
            return _refusal(503, str(error))


def serving_of(app: FastAPI) -> Serving:
    """An application's own, made when it is first needed."""
    if not hasattr(app.state, "serving"):
        app.state.serving = Serving()
    serving: Serving = app.state.serving
    return serving


def _options(fields: dict[str, str]) -> Options:
    try:
        return Options.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None


def _refusal(status: int, sentence: str, **more: str) -> Response:
    return JSONResponse({"detail": sentence, **more}, status)
