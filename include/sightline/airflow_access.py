"""Airflow's login and permissions for the pages: who may read, edit or trigger ingest_<dataset> may do
the same with the dataset. Imported where pages are served.
"""

from dataclasses import dataclass
from typing import cast

from airflow.api_fastapi.app import API_ROOT_PATH, get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import bearer_scheme, get_user
from airflow.models.dag import DagModel
from fastapi import Request

from sightline.web.access import Permission, Visitor

# As Airflow's own API asks for each: to read a DAG, to pause it, to trigger a run of it.
ASKED: dict[Permission, tuple[ResourceMethod, DagAccessEntity | None]] = {
    Permission.SEE: ("GET", None),
    Permission.ACT: ("PUT", None),
    Permission.RUN: ("POST", DagAccessEntity.RUN),
}


@dataclass(frozen=True)
class AirflowVisitor:
    """A user of Airflow."""

    user: BaseUser

    @property
    def name(self) -> str:
        """As Airflow's own records name this person."""
        return str(self.user.get_name())

    def may(self, permission: Permission, dataset: str) -> bool:
        """Whether Airflow lets this user do it with the dataset's ingest."""
        method, entity = ASKED[permission]
        dag_id = f"ingest_{dataset}"
        details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
        manager = get_auth_manager()
        return manager.is_authorized_dag(
            method=method, access_entity=entity, details=details, user=self.user
        )


@dataclass(frozen=True)
class AirflowAccess:
    """Those who have logged in to the Airflow around."""

    airflow: str | None = API_ROOT_PATH.removesuffix("/")

    async def visitor(self, request: Request) -> Visitor:
        """Who asks, by cookie or by token, as Airflow's own API finds it; HTTPException 401 or 403."""
        given = await bearer_scheme(request)
        user = await get_user(request, None, given)
        return cast(Visitor, AirflowVisitor(user))
