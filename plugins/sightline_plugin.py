"""Sightline in Airflow's UI: its pages below /sightline, behind Airflow's login and its permissions on DAGs.

Every component of Airflow imports this file, each task included; what the pages need is imported at the first
request for one.
"""

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

PREFIX = "/sightline"


class Pages:
    """The application of the pages, made when it is first asked."""

    @cached_property
    def app(self) -> Any:
        """The application itself."""
        from sightline.airflow_access import AirflowAccess
        from sightline.web.app import create_app

        return create_app(AirflowAccess())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        await self.app(scope, receive, send)


class SightlinePlugin(AirflowPlugin):
    """The pages and the links to them."""

    name = "sightline"
    fastapi_apps = [{"app": Pages(), "url_prefix": PREFIX, "name": "Sightline"}]
    external_views = [
        {
            "name": "Sightline",
            "href": f"{PREFIX}/",
            "destination": "nav",
            "url_route": "sightline",
            "nav_top_level": True,
        },
    ]
