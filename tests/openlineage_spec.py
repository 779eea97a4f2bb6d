"""OpenLineage's own schemas, by which the tests judge events; where they are from says openlineage/README.md.

An event must meet the schema of a run event, and each of its facets the schema that it names. A facet may
also hold no field that the newest version of its schema does not know: the classes of openlineage-python are
generated from that version.
"""

import json
import pkgutil
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attr
import openlineage.client.generated
from jsonschema import Draft202012Validator, FormatChecker
from openlineage.client.generated.base import BaseFacet
from referencing import Registry, Resource

SCHEMAS = Path(__file__).parent / "openlineage"
CORE = "OpenLineage"
FORMATS = FormatChecker(("uuid", "date-time"))
IN_EVERY_FACET = {"_producer", "_schemaURL", "_deleted"}


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
    found = _violations(event, f"https://openlineage.io/spec/2-0-2/{CORE}.json#/$defs/RunEvent")
    for name, facet in facets_of(event):
        url = facet.get("_schemaURL", "")
        found += [f"{name}: {problem}" for problem in _violations(facet, url)]
        unknown = set(facet) - IN_EVERY_FACET - _known_fields(url, facet)
        found += [f"{name}: {field} is no field of {url}" for field in sorted(unknown)]
    return found


def facets_of(event: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every facet of an event, with its name."""
    holders = [event["run"], event["job"], *event.get("inputs", []), *event.get("outputs", [])]
    for holder in holders:
        for kind in ("facets", "inputFacets", "outputFacets"):
            yield from holder.get(kind, {}).items()


def _violations(value: dict[str, Any], url: str) -> list[str]:
    file, _, definition = urlsplit(url).path.rpartition("/")[2], "", urlsplit(url).fragment
    name = file.removesuffix(".json")
    if name not in _schemas():
        return [f"there is no schema {url!r} in {SCHEMAS}"]
    schema = {"$ref": f"{_schemas()[name]['$id']}#{definition}"}
    validator = Draft202012Validator(schema, registry=_registry(), format_checker=FORMATS)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


@cache
def _schemas() -> dict[str, Any]:
    """Every schema by its name without the version."""
    paths = sorted(SCHEMAS.glob("*.json"))
    return {path.name.partition("-")[0]: json.loads(path.read_text()) for path in paths}


@cache
def _registry() -> "Registry[Any]":
    return Registry(retrieve=_retrieve)  # type: ignore[call-arg]


def _retrieve(uri: str) -> "Resource[Any]":
    """A schema by its URI; facets name different versions of the core, whose base facet is the same."""
    return Resource.from_contents(_schemas()[uri.rpartition("/")[2].removesuffix(".json")])


def _known_fields(url: str, facet: dict[str, Any]) -> set[str]:
    """The fields of the facet's newest version; Airflow's own facets, which name the core, may hold any."""
    return _fields().get(url, set()) if f"{CORE}.json" not in url else set(facet)


@cache
def _fields() -> dict[str, set[str]]:
    """By the URL of a facet's schema, the fields of its class."""
    package = openlineage.client.generated
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    classes = list(BaseFacet.__subclasses__())
    for one in classes:
        classes += one.__subclasses__()
    return {one._get_schema(): {field.name for field in attr.fields(one)} for one in classes}
