"""The columns of every table: the contract at both ends of each stage.

A schema here is a pyarrow one; Spark and Delta take theirs from it, so there is one definition.
"""

import pyarrow as pa

MANIFEST = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split_hint", pa.string()),  # the source's own train/test split, where it has one
        pa.field(
            "rotation", pa.int32()
        ),  # declared by the source, degrees counter-clockwise to apply
        pa.field("size_bytes", pa.int64()),
        pa.field("etag", pa.string()),  # changes when the bytes behind the uri change
        pa.field("licence", pa.string()),
        pa.field("author", pa.string()),
        pa.field("landing_url", pa.string()),
        pa.field("title", pa.string()),
        pa.field("uploaded_at", pa.timestamp("us", tz="UTC")),
        pa.field("partition", pa.string(), nullable=False),
    ]
)

# A row of work for fetch_images: a row of the manifest, and what the driver has read of it already.
WORK = pa.schema(
    [
        *MANIFEST,
        pa.field("attempts", pa.int32()),  # runs that have tried before; null: none
        pa.field("content", pa.binary()),  # where the source hands out its bytes in one stream
        pa.field("reject_reason", pa.string()),  # why there are none, of the same source
        pa.field("reject_detail", pa.string()),
    ]
)

IMAGES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),  # sha256 of the bytes, hexadecimal
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split_hint", pa.string()),
        pa.field("content", pa.binary(), nullable=False),  # bytes as fetched, never decoded pixels
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),  # pixels as stored, before any rotation
        pa.field("width", pa.int32(), nullable=False),
        pa.field("n_channels", pa.int32(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),  # Pillow's: RGB, L, CMYK, P, RGBA, I;16, ...
        pa.field("exif_orientation", pa.int32(), nullable=False),  # 1..8, 1 where absent or garbage
        pa.field("rotation", pa.int32(), nullable=False),
        pa.field("phash", pa.string(), nullable=False),  # 64-bit perceptual hash, hexadecimal
        pa.field("etag", pa.string()),  # the server's, or the source's where it has none
        pa.field("last_modified", pa.string()),  # as the server writes it
        # Null in images that were measured before these columns came.
        pa.field("view_hashes", pa.binary()),  # as view_hashes.hash_picture makes them
        pa.field("brightness_p5", pa.float32()),  # as image_properties.Properties says
        pa.field("brightness_p99", pa.float32()),
        pa.field("entropy", pa.float32()),
        pa.field("laplacian_variance", pa.float32()),
        pa.field("histogram_deviation", pa.float32()),
        pa.field("partition", pa.string(), nullable=False),
    ]
)

REJECTS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # a code of images.REASONS
        pa.field("detail", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),  # runs that have tried
        pa.field("rejected_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("thumbnail", pa.binary()),  # JPEG of what could be seen of it, or null
        pa.field("partition", pa.string(), nullable=False),
    ]
)

# What may be wrong with an image that we hold; scores are 0 to 1, lower is worse.
ISSUES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field(
            "issue", pa.string(), nullable=False
        ),  # a name of issue_scores.SCORES, or near_duplicate
        pa.field("score", pa.float32(), nullable=False),
        pa.field("threshold", pa.float32(), nullable=False),  # which the score is below
        pa.field(
            "other_image_id", pa.string()
        ),  # the image that it is most alike, of a near_duplicate
        pa.field("partition", pa.string(), nullable=False),
    ]
)

FEATURES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("backbone_id", pa.string(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32()), nullable=False),
    ]
)

SPLITS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # train, val, test or set_aside
    ]
)

# An image that the models of a plan leave out, and why.
EXCLUSIONS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),  # the plan's
        pa.field("reason", pa.string(), nullable=False),  # conflict or suspicious
    ]
)

# What a person says that an image shows; it stands above the source's label.
LABEL_OVERRIDES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("given_label", pa.string(), nullable=False),  # the source's; the same: accepted
        pa.field("decided_by", pa.string(), nullable=False),
        pa.field("decided_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

# A label that the other images speak against, or an image that is like no other.
SUSPICIOUS_LABELS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),  # the plan's
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("suggested", pa.string(), nullable=False),  # the likeliest other class
        pa.field("score", pa.float64(), nullable=False),  # 0..1, low is suspicious
        pa.field("label_probability", pa.float32(), nullable=False),
        pa.field("suggested_probability", pa.float32(), nullable=False),
        pa.field("is_label_issue", pa.bool_(), nullable=False),  # by confident learning
        pa.field("distance", pa.float64(), nullable=False),  # to the nearest class
        pa.field("is_outlier", pa.bool_(), nullable=False),
        pa.field("is_excluded", pa.bool_(), nullable=False),  # the plan's models leave it out
        pa.field("rank", pa.int64(), nullable=False),  # from 1, the worst
    ]
)

REDUCED = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("components", pa.list_(pa.float32()), nullable=False),
    ]
)

# What a fine-tuned network says of each image that it scored, in model.json's class order.
SCORES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),
        pa.field("augmented", pa.list_(pa.float32())),  # with test-time augmentation, where asked
    ]
)
PREDICTIONS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),  # of the predicted class
        pa.field(
            "probabilities", pa.list_(pa.float32()), nullable=False
        ),  # in model.json's class order
    ]
)

# What a champion says of images that nobody has labelled, or that it was asked about by hand.
ANSWERS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("predicted", pa.string(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),  # of the predicted class
        pa.field(
            "probabilities", pa.list_(pa.float32()), nullable=False
        ),  # in model.json's class order
    ]
)

METRICS = pa.schema(
    [
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("label", pa.string()),  # the class of a per-class metric, null for an overall one
        pa.field("value", pa.float64(), nullable=False),
    ]
)

# One setting of a scaling study; workers x batch size.
SCALING = pa.schema(
    [
        pa.field("study", pa.string(), nullable=False),  # the run of the DAG scaling_study
        pa.field("workers", pa.int32(), nullable=False),
        pa.field("batch_size", pa.int32(), nullable=False),  # of all workers together
        pa.field("epochs", pa.int32(), nullable=False),
        pa.field("images_per_second", pa.float64(), nullable=False),  # while training
        pa.field("efficiency", pa.float64(), nullable=False),  # speed a worker, to that of fewest
        pa.field("accuracy", pa.float64(), nullable=False),  # of the validation images, at the end
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("cost", pa.float64(), nullable=False),  # in the currency of price_per_hour
    ]
)

# One number of how far a partition is from what was there before.
DRIFT = pa.schema(
    [
        pa.field("partition", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.float64()),  # null: there are too few images to say
        pa.field("chance", pa.float64()),  # what chance alone exceeds once in a thousand times
        pa.field("warn", pa.float64()),
        pa.field("stop", pa.float64()),
        pa.field("verdict", pa.string(), nullable=False),  # of drift.VERDICTS
        pa.field("images", pa.int64(), nullable=False),
        pa.field("reference_images", pa.int64(), nullable=False),
        pa.field(
            "reference", pa.string(), nullable=False
        ),  # a model's version, or `older partitions`
    ]
)

# What was taken down and may not come back, each as a hash: tombstones.digest says of what.
TOMBSTONES = pa.schema(
    [
        pa.field("digest", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # image_id, uri or author
        pa.field("request", pa.string(), nullable=False),  # the take-down, as in model.json
        pa.field("reason", pa.string(), nullable=False),
        pa.field("taken_down_by", pa.string(), nullable=False),
        pa.field("taken_down_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

# A reject that a person wants to be tried again, however final it is.
READMISSIONS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("rejected_for", pa.string(), nullable=False),  # its reason then
        pa.field("reason", pa.string(), nullable=False),  # why it is tried again
        pa.field("readmitted_by", pa.string(), nullable=False),
        pa.field("readmitted_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

# What became of one expectation in one validation.
CHECK_RESULTS = pa.schema(
    [
        pa.field("validation", pa.string(), nullable=False),  # dag/run/suite/partition
        pa.field("run", pa.string(), nullable=False),  # dag/run
        pa.field("suite", pa.string(), nullable=False),  # the table that was looked at
        pa.field("partition", pa.string(), nullable=False),
        pa.field("expectation", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),  # or several, with commas
        pa.field("because", pa.string(), nullable=False),  # the expectation in words
        pa.field("success", pa.bool_(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("judged", pa.int64(), nullable=False),  # rows with a value
        pa.field("unexpected", pa.int64(), nullable=False),
        pa.field("observed", pa.float64()),  # share of judged rows as expected; null: none judged
        pa.field("least", pa.float64(), nullable=False),  # the share that is asked
        pa.field("checked_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
