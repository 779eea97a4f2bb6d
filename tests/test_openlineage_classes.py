"""The JSON schemas made of openlineage-python's classes: what they refuse, and that they are right."""

from typing import Any

import attr
import pytest
from jsonschema import Draft202012Validator
from openlineage.client.facet_v2 import (
    data_quality_metrics_dataset,
    dataset_version_dataset,
    job_dependencies_run,
    lifecycle_state_change_dataset,
    nominal_time_run,
    ownership_dataset,
)
from openlineage.client.generated.base import BaseFacet

from tests.openlineage_classes import facet_classes, schema_of
from tests.openlineage_spec import CORE, facet_problems, published_schemas

Version = dataset_version_dataset.DatasetVersionDatasetFacet
Ownership = ownership_dataset.OwnershipDatasetFacet
Metrics = data_quality_metrics_dataset.DataQualityMetricsDatasetFacet
Dependencies = job_dependencies_run.JobDependenciesRunFacet
Lifecycle = lifecycle_state_change_dataset.LifecycleStateChangeDatasetFacet
NominalTime = nominal_time_run.NominalTimeRunFacet
JOB = {"namespace": "sightline", "name": "photos.train"}


def facet(kind: type[BaseFacet], fields: dict[str, Any]) -> dict[str, Any]:
    """A facet as it stands in an event."""
    base = {"_producer": "https://example.org/sightline", "_schemaURL": kind._get_schema()}
    return {**base, **fields}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Version, {"datasetVersion": "1"}),
        (Ownership, {"owners": [{"name": "team:vision"}], "_deleted": False}),
        (Metrics, {"columnMetrics": {"height": {"nullCount": 1, "quantiles": {"0.5": 1.5}}}}),
        (Dependencies, {"upstream": [{"job": JOB, "made_up": "allowed by this class"}]}),
        (Lifecycle, {"lifecycleStateChange": "CREATE"}),
        (NominalTime, {"nominalStartTime": "2026-11-05T00:00:00Z"}),
    ],
)
def test_a_facet_like_its_class_is_valid(kind: type[BaseFacet], fields: dict[str, Any]) -> None:
    assert facet_problems(facet(kind, fields)) == []


@pytest.mark.parametrize(
    ("kind", "fields", "problem"),
    [
        (Version, {"datasetVersion": 1}, "1 is not of type 'string'"),
        (Version, {"datasetVersion": None}, "None is not of type 'string'"),
        (Version, {}, "'datasetVersion' is a required property"),
        (Version, {"datasetVersion": "1", "_producer": "nobody"}, "'nobody' is not a 'uri'"),
        (Version, {"datasetVersion": "1", "made_up": 1}, "made_up is no field of"),
        (Ownership, {"owners": {"name": "team:vision"}}, "is not of type 'array'"),
        (Ownership, {"owners": [{}]}, "'name' is a required property"),
        (Ownership, {"owners": [{"name": "a", "made_up": 1}]}, "'made_up' was unexpected"),
        (Ownership, {"_deleted": "no"}, "'no' is not of type 'boolean'"),
        (Metrics, {"columnMetrics": {"height": {"nullCount": 0.5}}}, "not of type 'integer'"),
        (Metrics, {"columnMetrics": {"height": {"max": "1"}}}, "not of type 'number'"),
        (Dependencies, {"upstream": [{"job": JOB, "run": {"runId": "1"}}]}, "'1' is not a 'uuid'"),
        (Lifecycle, {"lifecycleStateChange": "MELT"}, "'MELT' is not one of"),
        (NominalTime, {"nominalStartTime": "today"}, "'today' is not a 'date-time'"),
    ],
)
def test_a_facet_unlike_its_class_is_refused(
    kind: type[BaseFacet], fields: dict[str, Any], problem: str
) -> None:
    [found] = facet_problems(facet(kind, fields))
    assert problem in found


def test_every_facet_must_name_its_producer_and_a_schema_that_the_client_knows() -> None:
    nobody = facet(Version, {"datasetVersion": "1"})
    del nobody["_producer"]
    assert facet_problems(nobody) == ["$: '_producer' is a required property"]
    unknown = {**nobody, "_schemaURL": "https://example.org/1-0-0/MadeUpFacet.json"}
    [found] = facet_problems(unknown)
    assert (
        found == "openlineage-python has no class of 'https://example.org/1-0-0/MadeUpFacet.json'"
    )


def test_every_class_of_the_client_has_a_schema() -> None:
    for kind in facet_classes().values():
        Draft202012Validator.check_schema(schema_of(kind))


def test_a_type_that_no_schema_is_made_of_is_named() -> None:
    odd = attr.make_class("OddFacet", {"names": attr.field(type=set[str])}, (BaseFacet,))
    with pytest.raises(TypeError, match=r"set\[str\] of openlineage-python has no JSON schema"):
        schema_of(odd)


@pytest.mark.parametrize("name", sorted(set(published_schemas()) - {CORE}))
def test_a_schema_that_is_made_says_what_the_published_one_says(name: str) -> None:
    _, published = published_schemas()[name]["$defs"][name]["allOf"]
    [kind] = [one for one in facet_classes().values() if one.__name__ == name]
    schema = schema_of(kind)
    made = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    own = {key: value for key, value in made["properties"].items() if not key.startswith("_")}
    assert set(own) == set(published["properties"])
    assert set(made["required"]) == {"_producer", "_schemaURL", *published.get("required", [])}
    for key, value in own.items():
        assert value.get("type", "object") == published["properties"][key].get("type", "object")
        assert value.get("format") == published["properties"][key].get("format")
