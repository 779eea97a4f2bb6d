"""Pages from templates: escaped, with addresses that hold below any prefix, files that a browser may keep."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from starlette.responses import HTMLResponse
from starlette.routing import NoMatchFound

import sightline
from sightline.reporting import formats
from sightline.web.access import Permission

STATIC = Path(__file__).parent / "static"
KEPT = "private, max-age=31536000, immutable"  # for what an address names by its content
# The pages of one dataset, by the names of their routes; an application shows those that it has.
TABS = {
    "show_dataset": "Overview",
    "show_gallery": "Gallery",
    "show_rejects": "Rejects",
    "show_duplicates": "Duplicates",
    "show_labels": "Labels",
    "show_map": "Map",
    "show_quality": "Quality",
    "list_models": "Models",
    "show_try_it": "Try it",
}


def page(request: Request, template: str, status: int = 200, **facts: Any) -> HTMLResponse:
    """A template, by its file's name, filled with facts; UndefinedError where it names what is not there."""
    visitor = getattr(request.state, "visitor", None)
    html = _templates().get_template(template)
    return HTMLResponse(
        html.render(request=request, visitor=visitor, **{"dataset": None, **facts}), status
    )


def address(request: Request, route: str, **path: str | int) -> str:
    """The path of a route, by its name, below whatever prefix the application is mounted."""
    return f"{request.scope.get('root_path', '')}{request.app.url_path_for(route, **path)}"


@cache
def fingerprint(name: str) -> str:
    """A short name of a static file's content, so that a browser may keep it until it changes."""
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("sightline.web"),
        autoescape=True,  # labels, names and descriptions come from strangers
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats.FILTERS)
    environment.globals.update(
        url=_url,
        static=_static,
        find=_find,
        tabs=_tabs,
        airflow=_airflow,
        Permission=Permission,
        sightline_version=sightline.__version__,
    )
    return environment


@pass_context
def _url(context: Context, route: str, **path: str | int) -> str:
    return address(context["request"], route, **path)


@pass_context
def _find(context: Context, route: str, **path: str | int) -> str | None:
    """The address of a page that this application may not have, or None."""
    try:
        return address(context["request"], route, **path)
    except NoMatchFound:
        return None


@pass_context
def _static(context: Context, name: str) -> str:
    return f"{address(context['request'], 'read_static', name=name)}?v={fingerprint(name)}"


@pass_context
def _airflow(context: Context) -> str | None:
    """The path of the Airflow around, without a slash at its end; None where there is none."""
    path: str | None = context["request"].app.state.access.airflow
    return path


@pass_context
def _tabs(context: Context, dataset: str) -> list[tuple[str, str, bool]]:
    """Address, title, and whether this page is it or below it, of the pages of a dataset that this
    application has."""
    request = context["request"]
    here = getattr(request.scope.get("route"), "name", None)
    found = [(_find(context, route, dataset=dataset), route) for route in TABS]
    return [
        (address, TABS[route], route == here or _is_below(request.url.path, address, route))
        for address, route in found
        if address
    ]


def _is_below(path: str, address: str, route: str) -> bool:
    """All of a dataset's pages are below its overview."""
    return route != "show_dataset" and path.startswith(f"{address}/")
