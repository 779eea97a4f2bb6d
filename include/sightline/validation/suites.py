"""Suites: what the rows of a table must be, declared in include/expectations/<table>.yaml for all datasets.

A dataset adds expectations of its own, or replaces some, in <dataset>.expectations.yaml beside its file;
every row expectation of Great Expectations will do. Numbers that the dataset file sets come in as
{$PARAMETER: name}.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sightline.config import expectations_file
from sightline.errors import ConfigError
from sightline.settings import load_settings

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

TABLES = ("manifest", "images", "features")
Content = TypeVar("Content", bound=BaseModel)
COLUMN_KEYS = ("column", "column_A", "column_B", "column_list")


class Check(BaseModel):
    """One entry: an expectation's name, its arguments, and what it expects in words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    expectation: str
    kwargs: dict[str, Any]
    because: str = Field(min_length=1)

    @property
    def columns(self) -> list[str]:
        """The columns that it looks at."""
        found = [self.kwargs[key] for key in COLUMN_KEYS if key in self.kwargs]
        return [name for one in found for name in (one if isinstance(one, list) else [one])]


class Suite(BaseModel):
    """The expectations on one table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    expectations: tuple[Check, ...]


class Own(BaseModel):
    """A dataset's own expectations, by table. An entry takes the place of the default entries of the same
    expectation on the same columns, and comes in addition where there are none.

    `without` leaves defaults out, by their words (`because`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    manifest: tuple[Check, ...] = ()
    images: tuple[Check, ...] = ()
    features: tuple[Check, ...] = ()
    without: tuple[str, ...] = ()


def load_suite(table: str, dataset: str) -> tuple[Check, ...]:
    """The defaults of a table with the dataset's own; ConfigError says which entry is wrong."""
    defaults = _read(suite_file(table), Suite).expectations
    path = expectations_file(dataset)
    if not path.exists():
        return defaults
    own = _read(path, Own)
    _refuse_unknown(path, own)
    ours: tuple[Check, ...] = getattr(own, table)
    replaced = {_looks_at(check) for check in ours}
    kept = [
        one for one in defaults if _looks_at(one) not in replaced and one.because not in own.without
    ]
    return (*kept, *ours)


def _looks_at(check: Check) -> tuple[str, ...]:
    return (check.expectation, *check.columns)


def _refuse_unknown(path: Path, own: Own) -> None:
    """A default that is to be left out, and is none, would be checked on in silence."""
    defaults = [_read(suite_file(table), Suite).expectations for table in TABLES]
    known = [check.because for suite in defaults for check in suite]
    for words in own.without:
        if words not in known:
            close = difflib.get_close_matches(words, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise ConfigError(f"{path}: without: no default expectation says {words!r}{hint}")


def _read(path: Path, kind: type[Content]) -> Content:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)  # noqa: S506
        return kind.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{path}: {place}: {first['msg'].lower()}.") from error


def suite_file(table: str) -> Path:
    """Where the suite of a table is declared."""
    return load_settings().home / "include" / "expectations" / f"{table}.yaml"


def to_expectation(check: Check, number: int, source: Path) -> "Expectation":
    """The check as Great Expectations' own; `number` comes back with its results."""
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from pydantic.v1 import ValidationError as InvalidArguments

    try:
        expectation = ExpectationConfiguration(
            type=check.expectation,
            kwargs=check.kwargs,
            meta={"check": number},
        ).to_domain_obj()
    except ExpectationNotFoundError as error:
        close = difflib.get_close_matches(check.expectation, list(_row_expectations()), n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise ConfigError(f"{source}: no expectation {check.expectation!r}{hint}") from error
    except InvalidArguments as error:
        wrong = error.errors()[0]
        argument = ".".join(str(part) for part in wrong["loc"])
        raise ConfigError(
            f"{source}: {check.expectation}: argument {argument!r}: {wrong['msg']}."
        ) from error
    if check.expectation not in _row_expectations():
        raise ConfigError(
            f"{source}: {check.expectation} looks at a whole table at once; "
            "only expectations that look at one row at a time can be used here."
        )
    return expectation


def _row_expectations() -> Iterator[str]:
    """Names of the expectations that judge row by row, so that a table can be read in slices."""
    from great_expectations.expectations.expectation import (
        ColumnMapExpectation,
        ColumnPairMapExpectation,
        MulticolumnMapExpectation,
    )
    from great_expectations.expectations.registry import (
        get_expectation_impl,
        list_registered_expectation_implementations,
    )

    by_row = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)
    for name in list_registered_expectation_implementations():
        if issubclass(get_expectation_impl(name), by_row):
            yield name
