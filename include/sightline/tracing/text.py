"""What was traced, as lines for a person."""

import json
from typing import Any

from sightline import label_overrides
from sightline.remaking import Remade
from sightline.tracing.image import ImageTrace
from sightline.tracing.model import ModelTrace

WIDTH = 14  # of the names at the beginning of the lines
SHOWN_CLASSES = 20


def describe_image(trace: ImageTrace) -> list[str]:
    """An image, one fact a line."""
    held = trace.held or {}
    title = held["image_id"] if held else "not held"
    listed = trace.listed[0] if trace.listed else {}
    facts = {
        "uri": trace.uri,
        "page": listed.get("landing_url"),
        "title": listed.get("title"),
        "author": listed.get("author"),
        "licence": listed.get("licence"),
        "label": held.get("label", listed.get("label")),
        "label by": trace.decision and _decision(trace.decision),
        "partition": held.get("partition", listed.get("partition")),
        "uploaded": listed.get("uploaded_at"),
        "stored": held.get("stored_at"),
        "bytes": held
        and f"{held['size_bytes']:,}, {held['format']}, {held['width']} x {held['height']}",
        "split": trace.split and _split(trace.split),
        "features of": ", ".join(trace.features),
    }
    lines = [_line(name, _shown(value)) for name, value in facts.items() if value]
    lines += [_line("rejected", _reject(row)) for row in trace.rejects]
    lines += [_line("passed", _check(check)) for check in trace.checks] if held else []
    lines += [_line("model", _lesson(lesson)) for lesson in trace.models]
    lines += [_line("prediction", _answer(row)) for row in trace.predictions]
    lines += [_line("answer", _answer(row)) for row in trace.answers]
    if held and not trace.listed:
        lines.append(
            _line("listed", "the manifest has it no longer, so author and licence are unknown")
        )
    return [title, *lines]


def describe_model(trace: ModelTrace) -> list[str]:
    """A model, one fact a line."""
    kind = trace.kind.replace("_", " ")
    facts: dict[str, Any] = {
        "kind": f"{kind}, {trace.standing}" if trace.standing else kind,
        "trained": trace.created_at,
        "tables": _pairs(trace.tables),
        "images": _pairs(trace.rows),
        "left out": _pairs(trace.excluded) or "none",
        "seed": trace.seed,
        "parents": _pairs(trace.parents),
        "code": _code(trace.code),
        "metrics": ", ".join(f"{name} {value:.4f}" for name, value in trace.metrics.items()),
    }
    lines = [_line(name, str(fact)) for name, fact in facts.items()]
    lines += [_line(name, json.dumps(value)) for name, value in trace.parameters.items()]
    lines += _classes(trace.classes)
    lines += _environment(trace.environment)
    return [f"{trace.dataset} {trace.version}", *lines, _line("every image", trace.images_command)]


def describe_remade(made: Remade) -> list[str]:
    """How a model that was made again compares with itself."""
    verdict = "the same test predictions" if made.is_same else "other test predictions"
    lines = [
        f"Model {made.version} made again: {verdict}.",
        f"{made.images:,} test images, probabilities at most {made.largest_difference:.2g} apart, where "
        f"{made.tolerance:g} is taken for the same; {made.changed:,} of another class.",
    ]
    if made.unpaired:
        lines.append(f"{made.unpaired:,} images were predicted by one of the two only.")
    lines += [f"Not as it was: {difference}" for difference in made.differences]
    if made.url:
        lines.append(f"The new one is kept: {made.url}")
    return lines


def _line(name: str, text: str) -> str:
    return f"  {name:<{WIDTH}} {text}"


def _shown(value: Any) -> str:
    """Text of strangers, safe for a terminal."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _split(split: dict[str, Any]) -> str:
    images = split["group_images"]
    alone = "alone in it" if images == 1 else f"{images:,} images that look alike"
    return f"{split['split']}, group {split['group_id']} ({alone})"


def _decision(row: dict[str, Any]) -> str:
    said = f"{_shown(row['decided_by'])} {label_overrides.kind(row)} {_shown(row['label'])}"
    return f"{said}, {row['decided_at']}"


def _reject(row: dict[str, Any]) -> str:
    detail = f" ({_shown(row['detail'])})" if row["detail"] else ""
    return f"{row['reason']}{detail} in {row['stage']}, {row['rejected_at']}, try {row['attempts']}"


def _check(check: dict[str, Any]) -> str:
    return f"{check['task']}: {check['checks']} checks on {check['rows']:,} rows, {check['at']}"


def _lesson(lesson: Any) -> str:
    label = f", as {_shown(lesson.label)}" if lesson.label else ""
    return f"{lesson.version} ({lesson.kind.replace('_', ' ')}) {lesson.role}{label}"


def _answer(row: dict[str, Any]) -> str:
    truth = f", labelled {_shown(row['label'])}" if row.get("label") else ""
    return f"{row['model_version']}: {_shown(row['predicted'])} {row['probability']:.4f}{truth}"


def _code(code: dict[str, Any] | None) -> str:
    if code is None:
        return "not recorded then"
    changed = ", changed since" if code["modified"] else ""
    return f"sightline {code['version']}, commit {code['commit'] or 'unknown'}{changed}"


def _classes(classes: dict[str, dict[str, int]] | None) -> list[str]:
    if classes is None:
        return [_line("classes", "unknown, as the table versions are gone")]
    lines = []
    for split, labels in classes.items():
        ordered = sorted(labels.items(), key=lambda pair: (-pair[1], pair[0]))
        shown = ", ".join(f"{_shown(label)} {count:,}" for label, count in ordered[:SHOWN_CLASSES])
        more = (
            f", and {len(ordered) - SHOWN_CLASSES:,} more" if len(ordered) > SHOWN_CLASSES else ""
        )
        lines.append(_line(f"classes, {split}", f"{shown}{more}"))
    return lines


def _environment(environment: dict[str, Any] | None) -> list[str]:
    if environment is None:
        return [_line("environment", "not recorded then")]
    own = {name: value for name, value in environment.items() if name != "packages" and value}
    packages = {name: value for name, value in environment["packages"].items() if value}
    hardware = ", ".join(f"{name} {value}" for name, value in own.items())
    return [_line("environment", hardware), _line("packages", _pairs(packages))]
