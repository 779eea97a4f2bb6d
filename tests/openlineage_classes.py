"""JSON schemas of OpenLineage's facets, made of the classes of openlineage-python.

That project generates its classes from its newest schemas, and a class says less than its schema: nothing
of a least number or a pattern. A class itself judges types only where somebody constructs it.
"""

import pkgutil
from enum import Enum
from functools import cache
from importlib import import_module
from types import FunctionType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attr
import openlineage.client.generated
from openlineage.client.generated.base import BaseFacet

Schema = dict[str, Any]
SIMPLE: dict[object, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    Any: {},
}
# A class tells the format of a text only by what its validator calls.
FORMATS = {
    "isoparse": {"format": "date-time"},
    "UUID": {"format": "uuid"},
    "urlparse": {"format": "uri"},
}
IN_EVERY_FACET = ["_producer", "_schemaURL"]  # the client fills them in, so they have a default


@cache
def facet_classes() -> dict[str, type[BaseFacet]]:
    """The client's classes of facets, by the URL of the schema that each is generated from."""
    package = openlineage.client.generated
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    modules = [import_module(f"{package.__name__}.{name}") for name in names]
    found = [one for module in modules for one in vars(module).values() if isinstance(one, type)]
    return {one._get_schema(): one for one in found if issubclass(one, BaseFacet)}


@cache
def schema_of(facet: type[BaseFacet]) -> Schema:
    """The JSON schema of a facet, with a definition of each class that is nested in it."""
    definitions: dict[str, Schema] = {}
    return {**_of_type(facet, definitions), "$defs": definitions}


def _of_type(kind: Any, definitions: dict[str, Schema]) -> Schema:
    """The schema of a type; an unknown one is an error, as it would be judged by nothing."""
    inner = [one for one in get_args(kind) if one is not NoneType]
    if kind in SIMPLE:
        return SIMPLE[kind]
    if get_origin(kind) in (Union, UnionType):  # what is None is left out of an event
        schemas = [_of_type(one, definitions) for one in inner]
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    if get_origin(kind) is Literal:
        return {"enum": inner}
    if get_origin(kind) is list:
        return {"type": "array", "items": _of_type(inner[0], definitions)}
    if get_origin(kind) is dict:
        return {"type": "object", "additionalProperties": _of_type(inner[1], definitions)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [one.value for one in kind]}
    if attr.has(kind):
        return _of_class(kind, definitions)
    raise TypeError(f"{kind!r} of openlineage-python has no JSON schema here: add it.")


def _of_class(kind: type, definitions: dict[str, Schema]) -> Schema:
    """A reference to the definition of a class, which may be nested in itself."""
    name = f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    if name not in definitions:
        definitions[name] = {}
        types, fields = get_type_hints(kind), attr.fields(kind)
        definitions[name] |= {
            "type": "object",
            "properties": {
                field.name: _of_type(types[field.name], definitions) | _format(field.validator)
                for field in fields
            },
            "required": [
                field.name
                for field in fields
                if field.default is attr.NOTHING or field.name in IN_EVERY_FACET
            ],
            # The generator gives this method to a class whose schema allows more.
            "additionalProperties": hasattr(kind, "with_additional_properties"),
        }
    return {"$ref": f"#/$defs/{name}"}


def _format(validator: FunctionType | None) -> Schema:
    called = validator.__code__.co_names if validator else ()
    return next((FORMATS[call] for call in called if call in FORMATS), {})
