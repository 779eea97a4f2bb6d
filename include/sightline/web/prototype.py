"""The page to try champions on, alone and without Airflow: for a public prototype.

Only datasets that were named are there, nothing can be changed, and no photo but the visitor's own is shown
unless it is asked for.
"""

from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from sightline.web import try_it
from sightline.web.access import Anyone, Entering, Permission, Visitor
from sightline.web.app import create_app
from sightline.web.rendering import address, page

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Guest(Anyone):
    """A visitor of some datasets."""

    datasets: tuple[str, ...] = ()

    def may(self, permission: Permission, dataset: str) -> bool:
        """Whether it is one of these datasets that is only looked at."""
        return dataset in self.datasets and super().may(permission, dataset)


@dataclass(frozen=True)
class OpenFor:
    """No login, for some datasets."""

    datasets: tuple[str, ...]
    airflow: str | None = None

    async def visitor(self, request: Request) -> Visitor:
        """Anyone."""
        return Guest(datasets=self.datasets)


def create_prototype(datasets: tuple[str, ...], *, shows_photos: bool = False) -> FastAPI:
    """The application for some datasets; `shows_photos`: also the training photos that are most alike."""
    app = create_app(OpenFor(datasets), (router, try_it.router))
    app.state.datasets = datasets
    app.state.serving = try_it.Serving(shows_photos)
    return app


@router.get("/")
def choose_dataset(request: Request, visitor: Entering) -> Response:
    """The page itself, where there is one dataset alone; else a choice."""
    datasets: tuple[str, ...] = request.app.state.datasets
    if len(datasets) == 1:
        return RedirectResponse(address(request, "show_try_it", dataset=datasets[0]), 303)
    return _choice(request, datasets)


def _choice(request: Request, datasets: tuple[str, ...]) -> HTMLResponse:
    return page(request, "choose.html.j2", names=datasets)
