"""Publishing: the champion is the model that serves, moved in one atomic step."""

import logging

from sightline import models
from sightline.catalog import Catalog
from sightline.errors import TrainingError
from sightline.ledger import Record
from sightline.models import Plan

log = logging.getLogger(__name__)


def publish(catalog: Catalog, record: Record, plan: Plan) -> None:
    """Let the evaluated model serve."""
    model = models.read_model(catalog, plan.version)
    if model is None or "accuracy" not in model["metrics"]:
        raise TrainingError(f"Model {plan.version} has not been evaluated; clear task evaluate.")
    models.crown(catalog, plan.version)
    log.info("champion of %s is now %s, accuracy %s", catalog.dataset, plan.version,
             model["metrics"]["accuracy"])  # fmt: skip
    record.counts = {"accuracy": model["metrics"]["accuracy"]}
