"""Folds of cross-validation: near-duplicates stay together, and each class is dealt out evenly.

A class with fewer groups than folds is missing from some validation folds. One with a single group is
missing from the training rows just where it is validated, so it counts as wrong there, whatever is tried.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def at_home(rows: "DataFrame") -> "DataFrame":
    """Rows (label, group_id, ...) with `home`, the class that their whole group is dealt out with."""
    from pyspark.sql import Window, functions

    group = Window.partitionBy("group_id")
    return rows.withColumn("home", functions.min("label").over(group))


def deal_folds(rows: "DataFrame", labels: list[str], folds: int, seed: int) -> "DataFrame":
    """Rows (label, group_id, home, ...) with `fold`: the seed alone shuffles, not the rows' order.

    The large groups of a class come first, and each class starts one fold further than the one before.
    So two folds differ, in a class, by its largest group at most: by one image where nothing is alike.
    """
    from pyspark.sql import Window, functions

    size = functions.count("*").over(Window.partitionBy("group_id"))
    shuffled = functions.xxhash64("group_id", functions.lit(seed))
    in_class = Window.partitionBy("home").orderBy(functions.desc("size"), shuffled, "group_id")
    place = functions.dense_rank().over(in_class)
    start = functions.array_position(functions.lit(labels), functions.col("home"))
    sized = rows.withColumn("size", size)
    return sized.withColumn("fold", ((place + start) % folds).cast("int")).drop("size", "home")
