"""A page of HTML of a template beside this file: whole in one file, its style and our version inside."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import sightline
from sightline.reporting import formats

FOLDER = Path(__file__).parent


def render_page(template: str, **filled: Any) -> str:
    """A template, by its file's name, as a page; UndefinedError where it names what is not filled in."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,  # labels, names and descriptions come from strangers
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats.FILTERS)
    return environment.get_template(template).render(
        css=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        sightline_version=sightline.__version__,
        **filled,
    )
