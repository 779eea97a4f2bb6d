"""Run records as OpenLineage datasets: each table with its version, columns, size, owner and what was found.

A dataset's namespace is the store (`file`, or s3://bucket) and its name the path in it, as OpenLineage's
naming rules have it. docs/lineage.md lists the facets, and where the lineage is not complete.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    column_lineage_dataset,
    data_quality_assertions_dataset,
    data_quality_metrics_dataset,
    data_quality_metrics_input_dataset,
    dataset_type_dataset,
    dataset_version_dataset,
    datasource_dataset,
    input_statistics_input_dataset,
    output_statistics_output_dataset,
    ownership_dataset,
    schema_dataset,
    source_code_location_job,
    storage_dataset,
)

from sightline import column_lineage, ledger, provenance, storage
from sightline.catalog import Catalog
from sightline.column_lineage import Columns
from sightline.settings import load_settings

LOCAL = "file"
TYPES = {"source": "FILE", "models": "MODEL"}  # others are tables

Facets = dict[str, Any]


def datasets(
    record: dict[str, Any], owner: str = "sightline"
) -> tuple[list[InputDataset], list[OutputDataset]]:
    """The tables and models that a task read and wrote."""
    inputs = [
        InputDataset(
            *name_of(table["url"]),
            facets=_facets(table, owner),
            inputFacets=_input_facets(table, record.get("findings", [])),
        )
        for table in record["inputs"]
    ]
    outputs = [
        OutputDataset(
            *name_of(table["url"]),
            facets={**_facets(table, owner), **_whole(table), **_made_of(table, record)},
            outputFacets=_written(table),
        )
        for table in record["outputs"]
    ]
    return inputs, outputs


def ended_record(catalog: Catalog, task: ledger.TaskRun) -> dict[str, Any] | None:
    """What a task has noted; one that had nothing to do has looked at its tables all the same."""
    noted = ledger.read_record(catalog, task)
    if noted is None or noted["inputs"] or noted["outputs"]:
        return noted
    reads, _ = column_lineage.tables_of(task.task)
    return {**noted, "inputs": _present(catalog, reads, [])}


def failed_record(catalog: Catalog, task: ledger.TaskRun) -> dict[str, Any]:
    """What a failed task had noted, and the tables that it is known to work on as they are now: a killed
    one has noted nothing, but what it had committed stays."""
    noted = ledger.read_failure(catalog, task) or {"task": task.task, "inputs": [], "outputs": []}
    reads, writes = column_lineage.tables_of(task.task)
    inputs = [*noted["inputs"], *_present(catalog, reads, noted["inputs"])]
    outputs = [*noted["outputs"], *_present(catalog, writes, noted["outputs"])]
    return {**noted, "inputs": inputs, "outputs": outputs}


def source_code(path: str) -> source_code_location_job.SourceCodeLocationJobFacet:
    """Where a file of Sightline's home is to be read: at its commit, where that is known."""
    repository, commit = provenance.repository(), provenance.commit()
    path_there = f"{provenance.folder_in_repository()}{path}"
    url = (load_settings().home / path).as_uri()
    if repository and commit:
        url = f"{repository}/blob/{commit}/{path_there}"
    return source_code_location_job.SourceCodeLocationJobFacet(
        type="git", url=url, repoUrl=repository, path=path_there, version=commit
    )


def name_of(url: str) -> tuple[str, str]:
    """Namespace and name as OpenLineage's naming rules have them; without a login or a query, which may hold
    secrets."""
    if storage.is_local(url):
        return LOCAL, url.removeprefix("file://")
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}", parts.path.strip("/") or host


def _present(
    catalog: Catalog, names: set[str], noted: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The tables of these names that exist and were not noted."""
    missing = names - {table["name"] for table in noted}
    found = [ledger.describe(table) for table in catalog.tables if table.name in missing]
    return [table for table in found if table["version"] is not None]


def _facets(table: dict[str, Any], owner: str) -> Facets:
    namespace, name = name_of(table["url"])
    fields = [
        schema_dataset.SchemaDatasetFacetFields(name=column, type=kind)
        for column, kind in table["columns"]
    ]
    uri = Path(name).as_uri() if namespace == LOCAL else f"{namespace}/{name}"
    facets: Facets = {
        "schema": schema_dataset.SchemaDatasetFacet(fields=fields),
        "dataSource": datasource_dataset.DatasourceDatasetFacet(name=namespace, uri=uri),
        "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(
            TYPES.get(table["name"], "TABLE")
        ),
        "ownership": ownership_dataset.OwnershipDatasetFacet([ownership_dataset.Owner(owner)]),
    }
    if "rows" in table:
        facets["storage"] = storage_dataset.StorageDatasetFacet("delta", "parquet")
    if table["version"] is not None:  # a table that nobody has written yet has none
        version = str(table["version"])
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(version)
    return facets


def _input_facets(table: dict[str, Any], findings: list[dict[str, Any]]) -> Facets:
    """The size of the version that was read, and what a validation found in it."""
    if "rows" not in table:
        return {}
    statistics = input_statistics_input_dataset.InputStatisticsInputDatasetFacet
    facets: Facets = {"inputStatistics": statistics(table["rows"], table["bytes"], table["files"])}
    found = [finding for finding in findings if finding["table"] == table["name"]]
    if found:
        facets["dataQualityMetrics"] = _metrics(table, found)
        facets["dataQualityAssertions"] = _assertions(table, found)
    return facets


def _metrics(table: dict[str, Any], findings: list[dict[str, Any]]) -> Any:
    """How many rows were looked at, and how many values each column lacks."""
    known = {column for column, _ in table["columns"]}
    columns = {
        finding["columns"][0]: data_quality_metrics_input_dataset.ColumnMetrics(
            nullCount=finding["rows"] - finding["judged"]
        )
        for finding in findings
        if finding["columns"][0] in known and finding["assertion"] not in NULL_IS_UNEXPECTED
    }
    rows = max(finding["rows"] for finding in findings)
    facet = data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet
    return facet(columnMetrics=columns, rowCount=rows)


# It judges every row; of the others, those with a value.
NULL_IS_UNEXPECTED = ("expect_column_values_to_not_be_null",)


def _assertions(table: dict[str, Any], findings: list[dict[str, Any]]) -> Any:
    known = {column for column, _ in table["columns"]}
    assertions = [
        data_quality_assertions_dataset.Assertion(
            assertion=finding["assertion"],
            success=finding["success"],
            column=next((one for one in finding["columns"] if one in known), None),
            severity="error",
            description=finding["because"],
            expected=f"{finding['mostly']:.6g} of the rows",
            actual=f"{finding['judged'] - finding['unexpected']} of {finding['judged']} rows",
        )
        for finding in findings
    ]
    return data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(assertions)


def _whole(table: dict[str, Any]) -> Facets:
    """The size of a table after the task."""
    if "rows" not in table:
        return {}
    facet = data_quality_metrics_dataset.DataQualityMetricsDatasetFacet(
        columnMetrics={}, rowCount=table["rows"], bytes=table["bytes"], fileCount=table["files"]
    )
    return {"dataQualityMetrics": facet}


def _written(table: dict[str, Any]) -> Facets:
    """The rows that the task itself wrote, where it has told."""
    if table.get("written_rows") is None:
        return {}
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
    return {"outputStatistics": statistics(rowCount=table["written_rows"])}


def _made_of(table: dict[str, Any], record: dict[str, Any]) -> Facets:
    """Which columns of what the task read each column is made of, where it is written down."""
    columns = column_lineage.TASKS.get(record["task"], {}).get(table["name"], {})
    read = {one["name"]: name_of(one["url"]) for one in record["inputs"]}
    fields = {
        column: column_lineage_dataset.Fields(inputs)
        for column in columns
        if column != "*" and (inputs := _input_fields(columns, column, read))
    }
    if not fields:
        return {}
    whole = _input_fields(columns, "*", read)
    facet = column_lineage_dataset.ColumnLineageDatasetFacet(fields=fields, dataset=whole)
    return {"columnLineage": facet}


def _input_fields(
    columns: Columns, column: str, read: dict[str, tuple[str, str]]
) -> list[column_lineage_dataset.InputField]:
    sources = [source.split(".") for source in columns.get(column, ())]
    return [
        column_lineage_dataset.InputField(
            *read[table], field, [_transformation(columns, column, field)]
        )
        for table, field in sources
        if table in read
    ]


def _transformation(columns: Columns, column: str, field: str) -> Any:
    if column == "*":
        return column_lineage_dataset.Transformation("INDIRECT", "FILTER")
    is_same = len(columns[column]) == 1 and column == field
    return column_lineage_dataset.Transformation(
        "DIRECT", "IDENTITY" if is_same else "TRANSFORMATION"
    )
