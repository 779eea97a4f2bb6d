"""Sightline in Airflow's UI: its pages below /sightline, behind Airflow's login and its permissions on DAGs.

Every component of Airflow imports this file, each task included; what the pages and links need is imported
when the first of them is asked for.
"""

from functools import cached_property
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk.bases.operatorlink import BaseOperatorLink

PREFIX = "/sightline"
AROUND = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")  # Airflow's own path
ICON = f"{AROUND}{PREFIX}/static/sightline.svg"


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


class RunLink(BaseOperatorLink):
    """From a task to what its run has taken in."""

    name = "Sightline: this run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The tab beside the run; nothing where the DAG is not a dataset's."""
        from sightline.web.views.runs import dataset_of

        if dataset_of(ti_key.dag_id) is None:
            return ""
        run_id = quote(ti_key.run_id, safe="")
        return f"{AROUND}/dags/{ti_key.dag_id}/runs/{run_id}/plugin/sightline_run"


class ReportLink(BaseOperatorLink):
    """From a task of a training to its report."""

    name = "Sightline: report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The report inside the pages' frame; nothing as long as there is none."""
        from sightline.web.views.runs import find_report

        path = find_report(ti_key.dag_id, ti_key.run_id)
        return f"{AROUND}/plugin/sightline{PREFIX}/{path}" if path else ""


class SightlinePlugin(AirflowPlugin):
    """The pages and the links to them."""

    name = "sightline"
    fastapi_apps = [{"app": Pages(), "url_prefix": PREFIX, "name": "Sightline"}]
    external_views = [
        {
            "name": "Sightline",
            "href": f"{AROUND}{PREFIX}/",
            "destination": "nav",
            "url_route": "sightline",
            "icon": ICON,
            "nav_top_level": True,
        },
        {
            "name": "Sightline",
            "href": f"{AROUND}{PREFIX}/runs/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "sightline_run",
            "icon": ICON,
        },
    ]
    global_operator_extra_links = [RunLink(), ReportLink()]
