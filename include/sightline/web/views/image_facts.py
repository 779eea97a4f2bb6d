"""What the page of an image says of it, one fact a line."""

from typing import Any
from urllib.parse import urlsplit

from sightline import label_overrides, lookup
from sightline.catalog import Catalog
from sightline.reporting.formats import number, place, size
from sightline.tracing.image import ImageTrace


def facts_of(trace: ImageTrace) -> dict[str, str]:
    """Every fact that is known of an image, by its name."""
    held, listed = trace.held or {}, trace.listed[0] if trace.listed else {}
    facts = {
        "Address": place(trace.uri),
        "Id": held.get("image_id"),
        "Label": _label(trace),
        "Split": trace.split and _split(trace.split),
        "Partition": held.get("partition", listed.get("partition")),
        "Title": listed.get("title"),
        "Author": listed.get("author"),
        "Licence": listed.get("licence"),
        "Uploaded": listed.get("uploaded_at"),
        "Stored": held.get("stored_at"),
        "File": held and f"{held['format']}, {size(held['size_bytes'])}",
        "Pixels": held and f"{number(held['width'])} × {number(held['height'])}, {held['mode']}",
        "EXIF orientation": held.get("exif_orientation"),
        "Rotation": held and f"{held['rotation']}°, as the source says",
        "Perceptual hash": held.get("phash"),
        "Features": ", ".join(trace.features),
    }
    return {name: _shown(fact) for name, fact in {**facts, **_measured(held)}.items() if fact}


def issues_of(catalog: Catalog, trace: ImageTrace) -> list[dict[str, Any]]:
    """Rows of the issues table of an image."""
    if trace.held is None:
        return []
    rows = lookup.rows_of(catalog.issues, "image_id", [trace.held["image_id"]]).to_pylist()
    return sorted(rows, key=lambda row: str(row["issue"]))


def web_address(trace: ImageTrace) -> str | None:
    """The page that the source gives for an image; None where it is no address of the web."""
    for row in trace.listed:
        if row["landing_url"] and urlsplit(row["landing_url"]).scheme in ("http", "https"):
            return str(row["landing_url"])
    return None


def _label(trace: ImageTrace) -> str | None:
    said = trace.decision
    if said is None:
        return (trace.held or (trace.listed or [{}])[0]).get("label")
    what = (
        f"{label_overrides.kind(said)} by {said['decided_by']}, {said['decided_at']:%Y-%m-%d %H:%M}"
    )
    return f"{said['label']} ({what}; the source says {said['given_label']})"


def _split(split: dict[str, Any]) -> str:
    images = split["group_images"]
    alone = "no other looks like it" if images == 1 else f"{images:,} look alike"
    return f"{split['split']} (group {split['group_id']}: {alone})"


def _measured(held: dict[str, Any]) -> dict[str, str]:
    names = ("brightness_p5", "brightness_p99", "entropy", "laplacian_variance")
    known = {name: held.get(name) for name in names}
    return {
        name.replace("_", " ").capitalize(): f"{value:.3g}"
        for name, value in known.items()
        if value is not None
    }


def _shown(fact: Any) -> str:
    return f"{fact:%Y-%m-%d %H:%M} UTC" if hasattr(fact, "strftime") else str(fact)
