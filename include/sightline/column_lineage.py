"""Which columns each task makes of which: the one place where lineage by column is written down.

TASKS[task][table][column] are the columns, as `table.column`, that a column is made of. The column `*` stands
for the whole table: what decides which rows there are. A column that is not listed is made of nothing that a
table holds, such as a hash's salt or the time.
"""

from sightline import schemas

Columns = dict[str, tuple[str, ...]]


def same(table: str, *columns: str) -> Columns:
    """Columns that are taken over as they are."""
    return {column: (f"{table}.{column}",) for column in columns}


_MEASURED = (
    "image_id", "size_bytes", "format", "height", "width", "n_channels", "mode", "exif_orientation",
    "phash", "view_hashes", "brightness_p5", "brightness_p99", "entropy", "laplacian_variance",
    "histogram_deviation", "content",
)  # fmt: skip
_FROM_CONTENT: Columns = dict.fromkeys(_MEASURED, ("source.content",))
_IN_MANIFEST = [name for name in schemas.MANIFEST.names if name != "partition"]
_LISTED: Columns = dict.fromkeys(_IN_MANIFEST, ("source.listing",))
_LABEL = ("images.label", "label_overrides.label")
_LABELLED = (*_LABEL, "splits.split", "splits.group_id", "exclusions.reason")
_ALIKE = ("images.phash", "images.view_hashes", "manifest.author", "manifest.uploaded_at")
_LOOKED_AT = (
    "images.view_hashes", "images.brightness_p5", "images.brightness_p99", "images.entropy",
    "images.laplacian_variance", "images.histogram_deviation", "images.height", "images.width",
    "images.n_channels",
)  # fmt: skip
_COMPARED = (
    "images.label", "images.height", "images.width", "images.size_bytes", "images.n_channels",
    "images.brightness_p5", "images.brightness_p99", "images.entropy", "images.laplacian_variance",
    "features.embedding",
)  # fmt: skip
_OPINIONS = ("features.embedding", *_LABEL, "splits.split", "splits.group_id")
_JUDGED = (
    "suggested", "score", "label_probability", "suggested_probability", "is_label_issue", "distance",
    "is_outlier", "is_excluded", "rank",
)  # fmt: skip
_MODEL = ("models.weights",)
# Whichever of them the model has.
_SCORED = ("features.embedding", "scores.probabilities", "scores.augmented", *_MODEL)
_PREDICTED: Columns = dict.fromkeys(("predicted", "probability", "probabilities"), _SCORED)

TASKS: dict[str, dict[str, Columns]] = {
    "list_images": {"manifest": _LISTED},
    "fetch_images": {
        "images": {
            **same("manifest", "uri", "label", "split_hint", "rotation", "partition"),
            **_FROM_CONTENT,
            "etag": ("manifest.etag", "source.content"),
        },
        "rejects": {
            **same("manifest", "uri", "label", "partition"),
            **dict.fromkeys(("reason", "detail", "thumbnail"), ("source.content",)),
        },
    },
    "inspect_images": {
        "issues": {
            **same("images", "image_id", "partition"),
            **dict.fromkeys(("issue", "score"), _LOOKED_AT),
            "other_image_id": ("images.image_id", "images.view_hashes"),
        }
    },
    "featurize": {
        "features": {
            **same("images", "image_id"),
            "embedding": ("images.content", "images.rotation"),
        }
    },
    "measure_drift": {
        "drift": {
            **dict.fromkeys(("value", "chance", "verdict"), _COMPARED),
            "*": ("images.partition", "splits.split"),
        }
    },
    "split": {
        "splits": {
            **same("images", "image_id"),
            "group_id": _ALIKE,
            "split": (*_ALIKE, "images.split_hint"),
        }
    },
    "audit_labels": {
        "suspicious_labels": {
            **same("images", "image_id"),
            "label": _LABEL,
            **same("splits", "split"),
            **dict.fromkeys(_JUDGED, _OPINIONS),
        },
        "exclusions": {
            **same("images", "image_id"),
            "reason": (*_OPINIONS, "manifest.label", "rejects.detail"),
        },
    },
    "reduce": {
        "reduced": {
            **same("features", "image_id"),
            "components": ("features.embedding", "splits.split"),
        }
    },
    "train": {
        "models": {
            "weights": ("features.embedding", "reduced.components", *_LABELLED)
        }
    },
    "fine_tune": {
        "models": {
            "weights": ("images.content", "images.rotation", *_LABELLED)
        }
    },
    "score": {
        "scores": {
            **same("images", "image_id"),
            "probabilities": ("images.content", "images.rotation", *_MODEL),
            "augmented": ("images.content", "images.rotation", *_MODEL),
            "*": ("splits.split", "images.split_hint"),
        }
    },
    "evaluate": {
        "predictions": {
            **same("images", "image_id"),
            "label": _LABEL,
            **_PREDICTED,
            "*": ("splits.split", "exclusions.reason"),
        },
        "metrics": {
            "value": (
                *_SCORED, *_LABELLED, "images.height", "images.width", "manifest.licence"
            ),
            "*": ("splits.split",),
        },
    },
    "predict": {
        "answers": {
            **same("images", "image_id"),
            **_PREDICTED,
            "*": (*_LABEL, "images.split_hint", "images.partition"),
        }
    },
    "publish": {"models": same("models", "weights", "description")},
}  # fmt: skip
TASKS["score_new"] = TASKS["score"]


def tables_of(task: str) -> tuple[set[str], set[str]]:
    """The tables that a task reads and writes, by their names, as far as they are known here."""
    written = TASKS.get(task, {})
    made_of = (sources for columns in written.values() for sources in columns.values())
    return {source.partition(".")[0] for sources in made_of for source in sources}, set(written)
