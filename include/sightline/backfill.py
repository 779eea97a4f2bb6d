"""A backfill in the local Airflow: the days of a dataset side by side, then its training, watched to the end.

The flow of `sightline backfill`, which asks Airflow for what `airflow backfill create` asks it for.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from sightline.airflow_client import ENDED, AirflowClient, Run
from sightline.dataset_run import TRAIN_SECONDS, DatasetRun, Display
from sightline.errors import AirflowUnavailable

POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Backfilled:
    """How a backfill ended: the runs of its days and of the training."""

    days: list[Run]
    trainings: list[Run]

    @property
    def succeeded(self) -> bool:
        """Whether every run ended well."""
        return all(run.is_well for run in [*self.days, *self.trainings])


class Backfill:
    """The days from first to last of one dataset, both included."""

    def __init__(
        self, run: DatasetRun, client: AirflowClient, display: Display, first: date, last: date
    ) -> None:
        self._run = run
        self._client = client
        self._display = display
        self._first = first
        self._last = last

    def execute(self, again: str, parsed_since: float) -> Backfilled:
        """Run the days and the training; `again`: which days' earlier runs are run again."""
        with self._run.ready(parsed_since):
            backfill_id = self._client.create_backfill(
                self._run.ingest_id, self._first, self._last, again
            )
            with self._cancelled_on_error(backfill_id):
                days = self._follow_days(backfill_id)
                return Backfilled(days, self._follow_trainings(days))

    @contextlib.contextmanager
    def _cancelled_on_error(self, backfill_id: int) -> Iterator[None]:
        """On Ctrl-C no later Airflow takes the backfill up again; its days can be asked for again."""
        try:
            yield
        except BaseException:
            self._client.hurry()
            with contextlib.suppress(AirflowUnavailable):
                self._client.cancel_backfill(backfill_id)
                for run in self._client.backfilled_runs(backfill_id):
                    if run.state not in ENDED:
                        self._client.set_run_state(run, "failed")
            raise

    def _follow_days(self, backfill_id: int) -> list[Run]:
        began, told = time.monotonic(), ""
        while True:
            self._run.check_server()
            runs = self._client.backfilled_runs(backfill_id)
            line = progress_line(runs, time.monotonic() - began)
            if line.split(",")[0] != told:
                told = line.split(",")[0]
                self._display.tell(line)
            if all(run.state in ENDED for run in runs):
                return runs
            time.sleep(POLL_SECONDS)

    def _follow_trainings(self, days: list[Run]) -> list[Run]:
        """The trainings that the days have started, each followed to its end."""
        train_id, last_active = self._run.train_id, time.monotonic()
        while True:
            self._run.check_server()
            active = self._client.active_runs(train_id)
            for run in active:
                last_active = time.monotonic()
                self._run.tell_of_question(run, self._client.tasks(run))
            if not active:
                done = (day for day in days if day.is_well)
                started = [self._client.runs_started_by(day, train_id) for day in done]
                runs = {run.run_id: run for some in started for run in some}
                if all(started) and all(run.state in ENDED for run in runs.values()):
                    return list(runs.values())
            if time.monotonic() - last_active > TRAIN_SECONDS:
                raise AirflowUnavailable(
                    f"{train_id} was not started within {TRAIN_SECONDS} s; look at "
                    f"{self._client.address}/dags/{train_id}."
                )
            time.sleep(POLL_SECONDS)


def progress_line(runs: list[Run], seconds: float) -> str:
    """`12 of 31 days done, 4 running, about 7 min left`."""
    states = Counter(run.state for run in runs)
    done = sum(states[state] for state in ENDED)
    parts = [f"{done} of {len(runs)} days done"]
    parts += [f"{states[state]} {state}" for state in ("failed", "running") if states[state]]
    if 0 < done < len(runs):
        parts.append(f"about {seconds / done * (len(runs) - done) / 60:.0f} min left")
    return ", ".join(parts)
