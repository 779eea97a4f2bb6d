"""The section on how a network was fine-tuned: loss and accuracy by epoch, and what a search tried."""

from typing import Any

from sightline.models import FINE_TUNED
from sightline.reporting import charts
from sightline.reporting.report_input import ReportInput


def training_course(report: ReportInput) -> dict[str, Any] | None:
    """Epoch by epoch; None for a head on features, which has no epochs."""
    if report.model.get("kind") != FINE_TUNED:
        return None
    tuning = report.model["fine_tuning"]
    history = tuning["history"]
    best = history[tuning["best_epoch"] - 1]
    return {
        "history": history,
        "best": best,
        "losses": _plot(history, "loss", best["number"]),
        "accuracies": _plot(history, "accuracy", best["number"]),
        "trials": _trials(tuning.get("search") or []),
        "settings": _settings(tuning),
    }


def _plot(history: list[dict[str, Any]], name: str, best: int) -> charts.Chart:
    train = [epoch[name] for epoch in history]
    return charts.by_epoch(train, [epoch[f"validation_{name}"] for epoch in history], best)


def _trials(trials: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The trials of a search, the best first, and their accuracies as they came."""
    if not trials:
        return None
    ranked = sorted(trials, key=lambda trial: -trial["validation_accuracy"])
    return {
        "names": list(trials[0]["settings"]),
        "rows": ranked,
        "plot": charts.by_number([trial["validation_accuracy"] for trial in trials]),
    }


def _settings(tuning: dict[str, Any]) -> dict[str, str]:
    """The settings in words."""
    settings = tuning["settings"]
    phases = settings["phases"] or [settings]
    return {
        "Learning": "; then ".join(
            f"{phase['trainable']} for {phase['epochs']} epochs at {phase['learning_rate']:g}"
            for phase in phases
        ),
        "Optimiser": f"{settings['optimizer']}, {settings['schedule']}",
        "Loss": settings["loss"],
        "Batch": f"{settings['batch_size']} images in {settings['processes']} process(es), "
        f"{tuning['precision']}",
        "Augmentation": _augmentation(settings["augmentation"]),
    }


def _augmentation(asked: str | list[dict[str, Any]]) -> str:
    if isinstance(asked, str):
        return asked
    return "Albumentations: " + ", ".join(name for step in asked for name in step)
