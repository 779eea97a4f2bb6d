"""Who may: every route gets its dataset from one of these, so that there is no page without a permission.

    Seeing    pages               Airflow: may read the DAG ingest_<dataset>
    Acting    changes             may edit it
    Running   what starts runs    may trigger it

An `Access` tells who asks and what they may: the Airflow plugin's, or `Open` of a prototype served alone.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Protocol

from fastapi import Depends, HTTPException, Request

from sightline.catalog import Catalog, open_catalog
from sightline.config import dataset_files


class Permission(StrEnum):
    """What a person wants to do with a dataset."""

    SEE = "see"
    ACT = "change"
    RUN = "run"


class Visitor(Protocol):
    """Who asks."""

    @property
    def name(self) -> str:
        """As the records name this person."""

    def may(self, permission: Permission, dataset: str) -> bool:
        """Whether this person has a permission on a dataset."""


class Access(Protocol):
    """The policy of an application."""

    @property
    def airflow(self) -> str | None:
        """The path below which Airflow's own pages and API are; None without one."""

    async def visitor(self, request: Request) -> Visitor:
        """Who asks; HTTPException 401 where nobody has logged in, 403 where the login is not valid."""


@dataclass(frozen=True)
class Anyone:
    """A visitor without a name, who may look and try, and change nothing."""

    name: str = "anyone"

    def may(self, permission: Permission, dataset: str) -> bool:
        """Whether it is only looked."""
        return permission is Permission.SEE


@dataclass(frozen=True)
class Open:
    """No login: for a prototype served alone."""

    airflow: str | None = None

    async def visitor(self, request: Request) -> Visitor:
        """Anyone."""
        return Anyone()


@dataclass(frozen=True)
class Visit:
    """A visitor at a dataset, who has the permission that the route has asked for."""

    dataset: str
    visitor: Visitor

    @property
    def catalog(self) -> Catalog:
        """The dataset's places."""
        return open_catalog(self.dataset)

    def may(self, permission: Permission) -> bool:
        """Whether the visitor has another permission on this dataset, too."""
        return self.visitor.may(permission, self.dataset)


async def find_visitor(request: Request) -> Visitor:
    """Who asks, as the application's policy knows them."""
    access: Access = request.app.state.access
    visitor = await access.visitor(request)
    request.state.visitor = visitor  # for the page's frame
    return visitor


Entering = Annotated[Visitor, Depends(find_visitor)]


def sees(dataset: str, visitor: Entering) -> Visit:
    """May look at a dataset."""
    return _permit(visitor, Permission.SEE, dataset)


def acts(dataset: str, visitor: Entering) -> Visit:
    """May change what belongs to a dataset: labels, the champion."""
    return _permit(visitor, Permission.ACT, dataset)


def runs(dataset: str, visitor: Entering) -> Visit:
    """May start runs of a dataset."""
    return _permit(visitor, Permission.RUN, dataset)


Seeing = Annotated[Visit, Depends(sees)]
Acting = Annotated[Visit, Depends(acts)]
Running = Annotated[Visit, Depends(runs)]


def visible_datasets(visitor: Visitor) -> list[str]:
    """The datasets that a visitor may look at, by name."""
    names = [path.stem for path in dataset_files()]
    return [name for name in names if visitor.may(Permission.SEE, name)]


def _permit(visitor: Visitor, permission: Permission, dataset: str) -> Visit:
    """The permission first: who may not look is not told which datasets there are."""
    if not visitor.may(permission, dataset):
        raise HTTPException(403, f"{visitor.name} may not {permission} dataset {dataset!r}.")
    if dataset not in [path.stem for path in dataset_files()]:
        raise HTTPException(404, f"There is no dataset {dataset!r}.")
    return Visit(dataset, visitor)
