"""A run of a dataset, as far as it needs no Airflow; the rest is in test_local_airflow."""

from sightline.airflow_client import AirflowClient, Run, Task
from sightline.dataset_run import DatasetRun, Row


class Told:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def show(self, rows: list[Row]) -> None:
        """Keep nothing."""

    def tell(self, text: str) -> None:
        """Keep a sentence."""
        self.sentences.append(text)


def test_of_each_run_that_asks_a_person_is_told_once_and_where() -> None:
    told = Told()
    with AirflowClient("http://127.0.0.1:8080", "secret") as client:
        run = DatasetRun("birds", client, told, lambda: None)
        for state in ("running", "awaiting_input", "awaiting_input", "success"):
            tasks = {"approve": Task("approve", state, 1, None, None)}
            run.tell_of_question(Run("train_birds", "one", "running"), tasks)
        run.tell_of_question(
            Run("train_birds", "two", "running"),
            {"approve": Task("approve", "awaiting_input", 1, None, None)},
        )
    assert [sentence.split()[6] for sentence in told.sentences] == [
        f"http://127.0.0.1:8080/dags/train_birds/runs/{run_id}/tasks/approve/required_actions"
        for run_id in ("one", "two")
    ]
