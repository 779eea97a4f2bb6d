"""The Python tasks of all DAGs: each calls one stage of the library.

A function's docstring is what Airflow's UI shows under the task: it is written for the person on call.
"""

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from sightline.orchestration import features_asset, model_asset
from sightline.work import WHOLE, Work

if TYPE_CHECKING:
    from sightline.models import Plan
    from sightline.validation import Outcome
    from sightline.wanted_images import Wanted

log = logging.getLogger(__name__)


def preflight(work: Work) -> None:
    """Checks source, weights, disk and memory before anything is spent; refuses with one sentence."""
    from sightline.preflight import check

    for fact in check(work.spec, work.access):
        log.info(fact)


def list_images(work: Work) -> None:
    """Writes what the source lists for this partition into the manifest, replacing the partition."""
    from sightline import ingestion

    ingestion.list_images(work.spec, work.access, work.task, work.record)


def validate_manifest(work: Work) -> None:
    """Checks the manifest against include/expectations/manifest.yaml and the dataset's own expectations; a
    miss fails without a retry."""
    from sightline import validation

    work.record.read(work.catalog.manifest)
    outcome = validation.validate_manifest(work.catalog, work.task, work.spec.limits)
    _note(work, outcome)


def nothing_to_fetch(work: Work) -> dict[str, Any] | None:
    """The counts of a night without new images, for which no Spark is started; None on other nights."""
    from sightline import ingestion

    return ingestion.counts_if_done(work.spec, work.catalog, work.task.partition)


def nothing_to_featurize(work: Work) -> dict[str, Any] | None:
    """The counts where every image has its features, for which no Spark is started; None elsewhere."""
    from sightline import featurization

    return featurization.counts_if_done(work.spec, work.catalog, work.task.dag_id)


def validate_images(work: Work) -> None:
    """Checks that every listed image is held or rejected with a reason, within the failure budget."""
    from sightline import validation

    work.record.read(work.catalog.images, work.catalog.rejects, work.catalog.manifest)
    outcome = validation.validate_images(work.catalog, work.task, work.spec.limits)
    _note(work, outcome)


def inspect_images(work: Work) -> None:
    """Lists what may be wrong with this partition's images: dark, blurry, odd, near-duplicates; stops
    nothing."""
    from sightline import inspection

    inspection.inspect_images(work.spec, work.catalog, work.task, work.record)


def measure_drift(work: Work) -> None:
    """Compares the partition's new images with what the champion was trained on: classes, properties,
    embeddings. Warns, or stops the run before a training sees them, as the dataset file's `drift:` says."""
    from sightline import drift
    from sightline.ledger import last_record

    featurized = last_record(work.catalog, work.task.dag_id, "featurize", work.task.run_id)
    backbone_id = featurized["counts"]["backbone_id"]
    drift.measure_drift(work.spec, work.catalog, work.task, work.record, backbone_id)


def validate_features(work: Work) -> None:
    """Checks that every image has one finite embedding, then tells the training that features changed."""
    from sightline import validation
    from sightline.ledger import last_record

    work.record.read(work.catalog.features, work.catalog.images)
    featurized = last_record(work.catalog, work.task.dag_id, "featurize", work.task.run_id)
    outcome = validation.validate_features(
        work.catalog,
        work.task,
        featurized["counts"]["backbone_id"],
        featurized["counts"]["dim"],
        work.spec.limits,
    )
    _note(work, outcome)
    _announce(work, features_asset(work.spec.name))


def plan(work: Work) -> str:
    """Fixes the table versions to train on; skips the rest when their model serves, or was refused or
    rolled back already."""
    from sightline import models, publishing

    new = models.make_plan(work.spec, work.catalog, _backbone_id(work))
    work.record.read(work.catalog.images, version=new.images_version)
    work.record.read(work.catalog.features, version=new.features_version)
    reason = publishing.nothing_new(work.spec, work.catalog, new)
    if reason:
        raise AirflowSkipException(reason)
    models.write_plan(work.catalog, new)
    return new.version


def split(work: Work) -> None:
    """Gives new images their split for good, by near-duplicate group; no image ever moves."""
    from sightline import models, splitting

    splitting.split_images(work.spec, work.catalog, work.task, work.record)
    for uneven in work.record.counts["uneven"]:
        log.warning(
            "class %(label)s: %(tested)d of %(images)d images are tested, %(expected)s were expected; "
            "chance does not explain it", uneven,
        )  # fmt: skip
    models.fix_splits(work.catalog, _plan(work))


def audit_labels(work: Work) -> None:
    """Ranks the labels that the other images speak against, and settles which images are left out: those
    in conflict, and the suspicious ones only where the dataset file says so."""
    from sightline import label_audit

    label_audit.audit_labels(work.spec, work.catalog, work.task, work.record, _plan(work))


def evaluate(work: Work) -> None:
    """Predicts the test split with every candidate; keeps predictions and metrics under their versions."""
    from sightline import evaluation, models, tracking

    plan = _plan(work)
    evaluation.evaluate(work.spec, work.catalog, work.task, work.record, plan)
    for version in models.candidates(work.spec, plan).values():
        tracking.track(work.catalog, version)


def gate(work: Work) -> str:
    """Chooses the better candidate, compares it with the champion image by image, and decides whether it
    may serve. Always succeeds: publish is what a refusal stops."""
    from sightline import gating

    return gating.describe(gating.decide(work.spec, work.catalog, work.record, _plan(work)))


def report(work: Work) -> str:
    """Writes the run's report: one page that works without a network."""
    from sightline import reporting

    ingest = f"ingest_{work.spec.name}"
    url = reporting.write_report(
        work.catalog, work.version, ingest, work.task.dag_id, work.task.run_id
    )
    log.info("report: %s", url)
    work.record.counts = {"url": url}
    work.record.read(work.catalog.predictions, work.catalog.metrics)
    return url


def publish(work: Work) -> None:
    """Lets the chosen model serve, in one atomic step; fails where the gate has refused it."""
    from sightline import publishing, tracking

    plan = _plan(work)
    rejected = publishing.rejection(work.catalog, plan)
    if rejected:  # Airflow may start this task before the approval's skip is applied
        raise AirflowSkipException(rejected)
    publishing.publish(work.catalog, work.record, plan)
    tracking.note_champion(work.catalog, work.record.counts["version"])
    _announce(work, model_asset(work.spec.name))


def choose_images(work: Work) -> str:
    """Fixes the champion and the images that it is asked about; skips the rest where there are none."""
    from sightline import models, wanted_images

    parameters = work.context["params"]
    wanted = wanted_images.of_champion(
        work.catalog, parameters["images"], parameters["partition"] or None
    )
    model = models.read_model(work.catalog, wanted.version)
    assert model is not None  # it is the champion
    work.record.counts = {"images": wanted_images.count(work.catalog, model, wanted)}
    work.record.read(work.catalog.images)
    if not work.record.counts["images"]:
        raise AirflowSkipException(
            f"Every image of {work.spec.name} has a label, so there is nothing to predict; trigger it "
            "with images 'all' or with a partition to predict labelled ones, too."
        )
    return wanted.as_text()


def nothing_to_score(work: Work) -> dict[str, Any] | None:
    """The counts where the champion is a head, or knows every wanted image already; None elsewhere."""
    from sightline import models, wanted_images

    wanted = _wanted(work)
    model = models.read_model(work.catalog, wanted.version)
    if model is None or model["kind"] == models.HEAD:
        return {"scored": 0}  # predict says what is missing
    missing = wanted_images.missing_ids(work.catalog, model, wanted)
    return None if missing else {"scored": 0}


def predict(work: Work) -> None:
    """Writes the champion's answers into the table and into a file; features or scores are all it reads."""
    from sightline import predicting

    predicting.predict(work.catalog, work.task, work.record, _wanted(work))
    log.info("answers: %s", work.record.counts["url"])


def submit(work: Work) -> None:
    """Fills the competition's sample file with the champion's answers, for you to hand in."""
    from sightline import submission

    url = submission.submit(work.spec, work.catalog, work.record, _wanted(work).version)
    log.info("submission: %s", url)


def take_down(work: Work) -> None:
    """Takes images out of every table and file of the dataset, for good, and marks the models made of them.
    A take-down that was killed is finished first."""
    from sightline import take_down as taking

    asked = work.context["params"]
    wanted = taking.make_asked(asked["image_ids"], asked["uris"], asked["author"], asked["licence"])
    by = f"{work.task.dag_id}/{work.task.run_id}"
    done = taking.take_down(work.catalog, wanted, asked["reason"], by)
    for request in done:
        log.info("%s", taking.describe(work.catalog, request))
    work.record.counts = {
        "images": sum(len(request.image_ids) for request in done),
        "uris": sum(len(request.uris) for request in done),
        "models": sorted({version for request in done for version in request.models}),
    }
    work.record.wrote(work.catalog.tombstones)


def maintain(work: Work) -> None:
    """Retires old models, merges small files, removes what no table, model or running task needs any more."""
    from sightline import maintenance

    work.record.counts = maintenance.maintain(work.spec, work.catalog).counts


def report_study(work: Work) -> None:
    """Writes the page of the scaling study: a table and plots that work without a network."""
    from sightline.reporting import study

    url = study.write_study(work.catalog, work.task.run_id)
    log.info("scaling study: %s", url)
    work.record.counts = {"url": url}
    work.record.read(work.catalog.scaling)


def _note(work: Work, outcome: "Outcome") -> None:
    """Keep what a validation has found."""
    work.record.counts = {"rows": outcome.rows, "checks": outcome.checks}
    work.record.findings = outcome.findings
    work.record.wrote(work.catalog.check_results, rows=len(outcome.findings))


def _announce(work: Work, asset: Any) -> None:
    """Without a key the event would not reach those who listen for partitions."""
    if work.context.get("partition_key") is None:
        work.context["outlet_events"][asset].add_partitions(WHOLE)


def _wanted(work: Work) -> "Wanted":
    from sightline import wanted_images

    return wanted_images.from_text(work.context["ti"].xcom_pull(task_ids="choose_images"))


def _plan(work: Work) -> "Plan":
    from sightline import models

    return models.read_plan(work.catalog, work.version)


def _backbone_id(work: Work) -> str:
    """The backbone of the newest features; TrainingError when the dataset file asks for another."""
    from sightline.errors import TrainingError
    from sightline.ledger import last_record

    featurized = last_record(work.catalog, f"ingest_{work.spec.name}", "featurize")
    if featurized["counts"]["backbone"] != work.spec.backbone.model_dump(mode="json"):
        raise TrainingError(
            f"Dataset {work.spec.name}: the dataset file's backbone has changed since the last ingest; "
            f"run ingest_{work.spec.name} first."
        )
    return str(featurized["counts"]["backbone_id"])
