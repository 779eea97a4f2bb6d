"""A page of HTML of a template beside this file: whole in one file, its style and our version inside."""

from functools import cache
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import sightline
from sightline.reporting import formats
from sightline.reporting.charts import Chart

FOLDER = Path(__file__).parent


def render_page(template: str, **filled: Any) -> str:
    """A template, by its file's name, as a page; UndefinedError where it names what is not filled in."""
    return (
        _templates()
        .get_template(template)
        .render(
            css=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
            sightline_version=sightline.__version__,
            **filled,
        )
    )


def render_section(name: str, shown: dict[str, Any]) -> Markup:
    """A section of the report alone, for a page around it."""
    return Markup(_templates().get_template(f"{name}.html.j2").render(shown=shown))


def render_plot(chart: Chart, title: str, axis: str, description: str, mark: str = "") -> Markup:
    """A plot as SVG; its title above, what its x axis is below, and in words for those who do not see it."""
    pieces = cast(Any, _templates().get_template("pieces.html.j2").module)
    return Markup(pieces.plot(chart, title, axis, description, mark))


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,  # labels, names and descriptions come from strangers
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats.FILTERS)
    return environment
