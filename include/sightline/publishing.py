"""Publishing: the champion is the model that serves, moved in one atomic step, forth and back; by the gate,
or by a person, whose name and reason are kept.

The history beside the champion is played like a stack: publishing puts a model on top, rolling back takes
models off until the wanted one is on top again. What was taken off is withdrawn: no run publishes it again,
only a person does.
"""

import logging
from dataclasses import dataclass
from typing import Any

from sightline import attribution, models
from sightline.catalog import Catalog
from sightline.config import DatasetSpec
from sightline.errors import CheckFailed, ConfigError, TrainingError
from sightline.ledger import Record
from sightline.models import PROMOTED, ROLLED_BACK, Plan

log = logging.getLogger(__name__)

APPROVE, REJECT = "Approve", "Reject"  # a person's answers


@dataclass(frozen=True)
class Succession:
    """What the champion's history comes to."""

    line: list[str]  # the champion last, before it the one that it followed, ...
    withdrawn: dict[str, dict[str, Any]]  # version: the entry of the history that took it off
    were_champion: list[str]  # every one, in the order of their first time


def publish(catalog: Catalog, record: Record, plan: Plan) -> None:
    """Let the chosen candidate serve, if the gate and, where one was asked, a person have agreed.

    Its attribution is written first. CheckFailed says why it may not serve.
    """
    decision = models.read_decision(catalog, plan.version)
    if decision is None:
        raise TrainingError(f"Model {plan.version} has not been judged; clear task gate.")
    version = decision["chosen"]
    refusal = _refusal(catalog, decision)
    if refusal:
        raise CheckFailed(f"Model {version} of {catalog.dataset} is not published: {refusal}")
    attribution.write_attribution(catalog, version)
    by = (decision["approval"] or {}).get("by") or "gate"
    models.crown(catalog, version, by=by, reason=" ".join(decision["reasons"]))
    accuracy = next(
        one["metrics"]["accuracy"] for one in decision["candidates"] if one["version"] == version
    )
    log.info("champion of %s is now %s, accuracy %s", catalog.dataset, version, accuracy)
    record.read_model(catalog.models, version)
    record.wrote_model(catalog.champion, version)
    record.counts = {"accuracy": accuracy, "version": version}


def roll_back(catalog: Catalog, version: str | None, by: str, reason: str) -> tuple[str, str]:
    """Let the champion before, or another earlier one, serve again; returns the versions before and after.

    TrainingError where there is none before; ConfigError where the version was never champion.
    """
    past = succession(models.champion_history(catalog))
    if not past.line:
        raise models.no_champion(catalog)
    if version is None and len(past.line) == 1:
        raise TrainingError(
            f"Champion {past.line[0]} of {catalog.dataset} follows no other, so there is none to go "
            f"back to; 'sightline models {catalog.dataset}' lists the models."
        )
    wanted = version or past.line[-2]
    if wanted not in past.were_champion:
        raise ConfigError(
            f"Model {wanted!r} was never champion of {catalog.dataset}. "
            f"Known: {', '.join(past.were_champion)}."
        )
    if wanted == past.line[-1]:
        raise ConfigError(f"Model {wanted} is the champion of {catalog.dataset} already.")
    model = models.read_model(catalog, wanted)
    if model is None:
        raise TrainingError(f"Model {wanted} of {catalog.dataset} is no longer on storage.")
    models.refuse_retired(model)
    models.crown(catalog, wanted, ROLLED_BACK, by, reason)
    return past.line[-1], wanted


def promote(catalog: Catalog, version: str, by: str, reason: str) -> str | None:
    """Let a model serve because a person says so, whatever the gate has said; returns the champion before.
    One that was champion before is rolled back to.

    ConfigError where there is no such model, it serves already, or no reason is given; TrainingError where
    it has not been evaluated.
    """
    model = models.require_model(catalog, version)
    if not reason.strip():
        raise ConfigError(
            f"Say why model {version} is to serve: the reason is kept in the history."
        )
    models.refuse_retired(model)
    if "accuracy" not in model["metrics"]:
        raise TrainingError(
            f"Model {version} has not been evaluated; clear task evaluate of its run."
        )
    past = succession(models.champion_history(catalog))
    if version in past.were_champion:
        return roll_back(catalog, version, by, reason)[0]
    attribution.write_attribution(catalog, version)
    models.crown(catalog, version, PROMOTED, by, reason)
    return past.line[-1] if past.line else None


def succession(history: list[dict[str, Any]]) -> Succession:
    """Play a champion's history, oldest entry first."""
    line: list[str] = []
    withdrawn: dict[str, dict[str, Any]] = {}
    for entry in history:
        version = entry["version"]
        withdrawn.pop(version, None)
        if entry["action"] != ROLLED_BACK or version not in line:
            line.append(version)
        while line[-1] != version:
            withdrawn[line.pop()] = entry
    return Succession(line, withdrawn, list(dict.fromkeys(one["version"] for one in history)))


def nothing_new(spec: DatasetSpec, catalog: Catalog, plan: Plan) -> str | None:
    """Why a plan need not be trained, in a sentence; None where it should be.

    The same inputs make the same model. It serves, or was rolled back, or was refused on the terms that
    still hold: in no case would training it again tell anything.
    """
    champion = models.read_champion(catalog)
    if champion and champion["fingerprint"] == plan.fingerprint:
        return (
            f"Nothing new: champion {champion['version']} (accuracy "
            f"{champion['metrics']['accuracy']:.4f}) was trained on these features with these settings."
        )
    past = succession(models.champion_history(catalog))
    for version in models.candidates(spec, plan).values():
        if version in past.withdrawn:
            return f"Nothing new: these features and settings made model {_withdrawn(catalog, version)}"
    decision = models.read_decision(catalog, plan.version)
    if decision is None or not _same_terms(decision, spec, champion):
        return None
    if not decision["passed"]:
        return f"Nothing new: the gate has refused model {decision['chosen']} already. " + " ".join(
            decision["reasons"]
        )
    if _is_rejected(decision):
        return f"Nothing new: model {decision['chosen']} {_rejected(decision)}"
    return None


def rejection(catalog: Catalog, plan: Plan) -> str | None:
    """Who has rejected a plan's model, in a sentence; None where nobody has."""
    decision = models.read_decision(catalog, plan.version)
    if decision is None or not _is_rejected(decision):
        return None
    return f"Model {decision['chosen']} {_rejected(decision)}"


def _refusal(catalog: Catalog, decision: dict[str, Any]) -> str | None:
    """Why a decision does not let its model serve, or None."""
    if not decision["passed"]:
        return " ".join(decision["reasons"])
    if _is_rejected(decision):
        return f"it {_rejected(decision)}"
    past = succession(models.champion_history(catalog))
    version = decision["chosen"]
    if version in past.withdrawn:
        return f"model {_withdrawn(catalog, version)}"
    before = decision["champion"] and decision["champion"]["version"]
    now = past.line[-1] if past.line else None
    if now not in (before, version):
        return f"it was compared with champion {before}, and now {now} serves; clear task gate."
    return None


def _same_terms(
    decision: dict[str, Any], spec: DatasetSpec, champion: dict[str, Any] | None
) -> bool:
    """Whether a decision was made by the gate and beside the champion of today."""
    before = decision["champion"] and decision["champion"]["version"]
    now = champion and champion["version"]
    return bool(decision["gate"] == spec.gate.model_dump(mode="json") and before == now)


def _is_rejected(decision: dict[str, Any]) -> bool:
    return bool(decision["approval"] and decision["approval"]["answer"] == REJECT)


def _rejected(decision: dict[str, Any]) -> str:
    answer = decision["approval"]
    return (
        f"was rejected by {answer['by']} on {answer['at']}; clear task approve to be asked again."
    )


def _withdrawn(catalog: Catalog, version: str) -> str:
    """The end of a sentence that begins with a model's rolling back."""
    entry = succession(models.champion_history(catalog)).withdrawn[version]
    because = f" ({entry['reason']})" if entry["reason"] else ""
    return (
        f"{version}, which {entry['by']} rolled back on {entry['at']}{because}; "
        f"'sightline rollback {catalog.dataset} --to {version}' lets it serve again."
    )
