"""What judges OpenLineage events in the tests: published schemas, and others made of the client's classes.

An event must meet the published schema of a run event. Each of its facets must meet the schema that is made
of openlineage-python's class for the URL that the facet names, and hold no other field; where openlineage/
has a published schema of that name, it must meet that one, too.
"""

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attr
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

from tests.openlineage_classes import Schema, facet_classes, schema_of

SCHEMAS = Path(__file__).parent / "openlineage"
CORE = "OpenLineage"
FORMATS = FormatChecker(("uuid", "date-time"))


@FORMATS.checks("uri")
def is_uri(value: object) -> bool:
    """Whether a text is absolute, as jsonschema judges only with packages that we do not have."""
    return not isinstance(value, str) or (bool(urlsplit(value).scheme) and " " not in value)


def check_events(path: Path) -> Counter[tuple[str, str]]:
    """Judge every event of a file; returns how many there are of each job and type."""
    counts = Counter[tuple[str, str]]()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        event = json.loads(line)
        assert not (found := problems(event)), f"event {number}, {event['job']['name']}: {found}"
        counts[event["job"]["name"], event["eventType"]] += 1
    return counts


def problems(event: dict[str, Any]) -> list[str]:
    """What is wrong with an event; empty where it is valid."""
    found = _violations(event, _published(CORE, "/$defs/RunEvent"))
    for name, facet in facets_of(event):
        found += [f"{name}: {problem}" for problem in facet_problems(facet)]
    return found


def facet_problems(facet: dict[str, Any]) -> list[str]:
    """What is wrong with a facet; Airflow's own facets name only the core, and may hold any field."""
    url = facet.get("_schemaURL", "")
    name, definition = Path(urlsplit(url).path).stem, urlsplit(url).fragment
    if name == CORE:
        return _violations(facet, _published(CORE, definition))
    if url not in facet_classes():
        return [f"openlineage-python has no class of {url!r}"]
    kind = facet_classes()[url]
    found = _violations(facet, schema_of(kind))
    if name in published_schemas():
        found += _violations(facet, _published(name, definition))
    unknown = set(facet) - {field.name for field in attr.fields(kind)}
    return found + [f"{field} is no field of {url}" for field in sorted(unknown)]


def facets_of(event: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every facet of an event, with its name."""
    holders = [event["run"], event["job"], *event.get("inputs", []), *event.get("outputs", [])]
    for holder in holders:
        for kind in ("facets", "inputFacets", "outputFacets"):
            yield from holder.get(kind, {}).items()


def _violations(value: dict[str, Any], schema: Schema) -> list[str]:
    validator = Draft202012Validator(schema, registry=_registry(), format_checker=FORMATS)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def _published(name: str, definition: str) -> Schema:
    return {"$ref": f"{published_schemas()[name]['$id']}#{definition}"}


@cache
def published_schemas() -> dict[str, Any]:
    """Every published schema by its name without the version."""
    paths = sorted(SCHEMAS.glob("*.json"))
    return {path.name.partition("-")[0]: json.loads(path.read_text()) for path in paths}


@cache
def _registry() -> "Registry[Any]":
    return Registry(retrieve=_retrieve)  # type: ignore[call-arg]


def _retrieve(uri: str) -> "Resource[Any]":
    """A schema by its URI; facets name different versions of the core, whose base facet is the same."""
    return Resource.from_contents(published_schemas()[uri.rpartition("/")[2].removesuffix(".json")])
