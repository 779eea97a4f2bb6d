"""What a Python stage is given, made of Airflow's context: the dataset, its tables, and which task of which
run is at work.
"""

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk import Connection, Context
from airflow.sdk.exceptions import AirflowNotFoundException

from sightline.config import DatasetSpec

if TYPE_CHECKING:
    from sightline.catalog import Catalog
    from sightline.ledger import Record, TaskRun
    from sightline.sources import Access, Credential

WHOLE = "all"  # the partition of a run that has no partition key


@dataclass(frozen=True)
class Work:
    """What a Python stage is given."""

    spec: DatasetSpec
    catalog: "Catalog"
    task: "TaskRun"
    record: "Record"
    context: Context

    @property
    def version(self) -> str:
        """The model version that this run's plan has named."""
        return str(self.context["ti"].xcom_pull(task_ids="plan"))

    @property
    def access(self) -> "Access":
        """What the source is given."""
        from sightline.sources import Access

        cursor = Cursor(self.context.get("task_state_store"))
        return Access(self.catalog, self.task.partition, find_credential, cursor)


class Cursor(MutableMapping[str, Any]):
    """Airflow's store of a task's state, which its retries find again, as a dictionary."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._keys: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        value = self._store.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        self._store.set(key, value)
        self._keys.add(key)

    def __delitem__(self, key: str) -> None:
        self._store.delete(key)
        self._keys.discard(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)  # those of this try: the store does not list

    def __len__(self) -> int:
        return len(self._keys)


def find_credential(connection: str) -> "Credential | None":
    """The login of an Airflow connection, or None where there is none; Airflow masks it in its logs."""
    from sightline.sources import Credential

    try:
        found = Connection.get(connection)
    except AirflowNotFoundException:
        return None
    return Credential(found.login or "", found.password or "")


def current_task(context: Context, spec: DatasetSpec, name: str) -> "TaskRun":
    """Which task of which run is at work, from Airflow's context."""
    from sightline.ledger import TaskRun

    ti = context["ti"]
    partition = ti.task.render_template(partition_template(spec), context)
    return TaskRun(ti.dag_id, ti.run_id, name, partition)


def partition_template(spec: DatasetSpec) -> str:
    """A run's partition, for Airflow to render; a run without one takes, of a source by days, the day
    before it.
    """
    if spec.source.is_daily:
        return "{{ partition_key or macros.ds_add(dag_run.run_after.strftime('%Y-%m-%d'), -1) }}"
    return f"{{{{ partition_key or '{WHOLE}' }}}}"
