"""Great Expectations at work: a suite over the slices of a table, the counts summed over all of them.

Every check is judged over the sum, never by slice. The exception is uniqueness, which Great
Expectations sees within a slice only: a value that repeats in two slices of 500,000 rows passes.
"""

import gc
import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sightline.errors import ConfigError
from sightline.validation.frames import Frame
from sightline.validation.suites import Check, suite_file, to_expectation

if TYPE_CHECKING:
    import pandas
    from great_expectations.core import (
        ExpectationSuiteValidationResult,
        ExpectationValidationResult,
    )
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.expectations.expectation import Expectation

MOST_EXAMPLES = 20


@dataclass
class Finding:
    """What became of one check: counts over all slices, and the first rows that break it."""

    check: Check
    row_name: str
    rows: int = 0
    judged: int = 0  # rows with a value, which is what a share refers to
    unexpected: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)  # parameters filled in
    examples: list[dict[str, Any]] = field(default_factory=list)  # row name and looked-at columns

    @property
    def mostly(self) -> float:
        """The share of judged rows that must be as expected."""
        return float(self.arguments.get("mostly", 1.0))

    @property
    def passed(self) -> bool:
        """Whether few enough rows break it."""
        return self.judged - self.unexpected >= self.mostly * self.judged - 1e-6

    def add(self, result: "ExpectationValidationResult") -> None:
        """Count one slice."""
        counts = result.result
        assert result.expectation_config is not None
        self.arguments = {**result.expectation_config.kwargs}
        self.arguments.pop("batch_id", None)
        self.rows += counts["element_count"]
        self.judged += counts["element_count"] - counts.get("missing_count", 0)
        self.unexpected += counts["unexpected_count"]
        room = MOST_EXAMPLES - len(self.examples)
        self.examples += counts.get("partial_unexpected_index_list", [])[:room]


def import_great_expectations() -> Any:
    """Import Great Expectations, in seconds: quicker with the collector paused, and without network."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # obeyed by releases that report usage
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # hundreds of lines at INFO
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its own imports of old modules
            import great_expectations
    except SystemExit as error:  # of pyspark, status 0, where the program has no file: `python -c`
        raise ConfigError(
            "Great Expectations cannot be imported by `python -c`; write the program to a file."
        ) from error
    finally:
        if was_enabled:
            gc.enable()
    return great_expectations


def run_suite(
    table: str, checks: tuple[Check, ...], frames: list[Frame], parameters: Mapping[str, Any]
) -> list[Finding]:
    """Judge every check on the frame that holds its columns; the findings are in the checks' order."""
    import_great_expectations()
    findings: list[Finding] = []
    for check in checks:
        frame = _frame_of(table, check, frames)
        findings.append(Finding(check, frame.row_name))
    for frame in frames:
        mine = {n: one for n, one in enumerate(checks) if _frame_of(table, one, frames) is frame}
        expectations = [to_expectation(one, n, suite_file(table)) for n, one in mine.items()]
        if not expectations:
            continue
        batches = _batch_definition(table)
        for rows in frame.slices([name for check in mine.values() for name in check.columns]):
            for result in _validate(
                batches, rows, expectations, parameters, frame.row_name
            ).results:
                assert result.expectation_config is not None
                findings[_number(table, result)].add(result)
    return findings


def _frame_of(table: str, check: Check, frames: list[Frame]) -> Frame:
    for frame in frames:
        if check.columns and set(check.columns) <= set(frame.columns):
            return frame
    known = "; ".join(", ".join(frame.columns) for frame in frames)
    raise ConfigError(
        f"{suite_file(table)}: {check.expectation} looks at "
        f"{' and '.join(check.columns) or 'no column'}, but may look at: {known}."
    )


def _batch_definition(table: str) -> "BatchDefinition[Any]":
    """A place in memory to put slices into; nothing of it is kept on disk."""
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
    )

    in_memory = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)  # else a folder in /tmp
    context = import_great_expectations().get_context(
        mode="ephemeral",
        project_config=DataContextConfig(store_backend_defaults=in_memory, analytics_enabled=False),
    )
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas(table)
    return source.add_dataframe_asset(table).add_batch_definition_whole_dataframe(table)


def _validate(
    batches: "BatchDefinition[Any]",
    rows: "pandas.DataFrame",
    expectations: list["Expectation"],
    parameters: Mapping[str, Any],
    row_name: str,
) -> "ExpectationSuiteValidationResult":
    from great_expectations import ExpectationSuite
    from great_expectations.exceptions import GreatExpectationsError

    suite = ExpectationSuite(batches.name, expectations=[*expectations])
    try:
        return batches.get_batch({"dataframe": rows}).validate(
            suite,
            result_format={
                "result_format": "SUMMARY",
                "partial_unexpected_count": MOST_EXAMPLES,
                "unexpected_index_column_names": [row_name],
            },
            expectation_parameters=dict(parameters),
        )
    except GreatExpectationsError as error:
        raise ConfigError(
            f"{suite_file(batches.name)}: {' '.join(str(error).split())}; "
            f"known parameters: {', '.join(parameters)}."
        ) from error


def _number(table: str, result: "ExpectationValidationResult") -> int:
    """Which check a result belongs to; ConfigError where the check could not be judged at all."""
    config, failure = result.expectation_config, result.exception_info or {}
    assert config is not None
    for one in [failure, *(each for each in failure.values() if isinstance(each, dict))]:
        if one.get("raised_exception"):
            reason = " ".join(str(one.get("exception_message")).split())
            raise ConfigError(
                f"{suite_file(table)}: {config.type} cannot be judged on "
                f"{config.kwargs.get('column', 'its columns')}: {reason}."
            )
    return int(config.meta["check"])
