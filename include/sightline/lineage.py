"""Run records as OpenLineage datasets: each table with its version, columns and rows."""

from typing import Any

from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    dataset_version_dataset,
    output_statistics_output_dataset,
    schema_dataset,
)

from sightline import storage

LOCAL = "file"


def datasets(record: dict[str, Any]) -> tuple[list[InputDataset], list[OutputDataset]]:
    """The tables that a task read and wrote."""
    inputs = [
        InputDataset(*_name(table["url"]), facets=_facets(table)) for table in record["inputs"]
    ]
    outputs = [
        OutputDataset(*_name(table["url"]), facets=_facets(table), outputFacets=_rows(table))
        for table in record["outputs"]
    ]
    return inputs, outputs


def _name(url: str) -> tuple[str, str]:
    """Namespace and name as OpenLineage's naming rules have them."""
    if storage.is_local(url):
        return LOCAL, url.removeprefix("file://")
    scheme, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    return f"{scheme}://{bucket}", path


def _facets(table: dict[str, Any]) -> dict[str, Any]:
    fields = [
        schema_dataset.SchemaDatasetFacetFields(name=name, type=kind)
        for name, kind in table["columns"]
    ]
    facets: dict[str, Any] = {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)}
    if table["version"] is not None:  # a table that nobody has written yet has none
        version = str(table["version"])
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(version)
    return facets


def _rows(table: dict[str, Any]) -> dict[str, Any]:
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
    return {"outputStatistics": statistics(rowCount=table["rows"])}
