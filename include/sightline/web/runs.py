"""A run of a DAG: the tab beside Airflow's own."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse

from sightline.web.access import Entering, Visit, sees
from sightline.web.rendering import page
from sightline.web.views.runs import dataset_of, read_run

router = APIRouter(include_in_schema=False)


def sees_run(dag_id: str, visitor: Entering) -> Visit | None:
    """May look at the dataset of a DAG; None where the DAG is not one of ours."""
    dataset = dataset_of(dag_id)
    return None if dataset is None else sees(dataset, visitor)


SeeingRun = Annotated[Visit | None, Depends(sees_run)]


@router.get("/runs/{dag_id}/{run_id}")
def show_run(request: Request, visit: SeeingRun, dag_id: str, run_id: str) -> HTMLResponse:
    """What a run has done so far."""
    if visit is None:
        return page(request, "run_elsewhere.html.j2", dag_id=dag_id)
    run = read_run(visit.catalog, dag_id, run_id)
    return page(
        request,
        "run.html.j2",
        dataset=visit.dataset,
        dag_id=dag_id,
        run_id=run_id,
        run=run,
        longest=max((task.seconds for task in run.tasks), default=0) if run else 0,
    )
