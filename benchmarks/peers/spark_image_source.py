"""Spark: an iterator pandas UDF over the `image` data source, which decodes in the JVM."""

import time
from collections.abc import Iterator
from itertools import chain

import network
import numpy as np
import pandas as pd
import torch
from network import BATCH_SIZE, build_network, build_transform, parse_arguments, report
from PIL import Image
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf


def main() -> None:
    """Featurize the folder."""
    asked = parse_arguments()
    backbone = asked.backbone

    spark = SparkSession.builder.master("local[*]").getOrCreate()
    spark.sparkContext.addPyFile(network.__file__)

    @pandas_udf("array<float>")
    def embed(frames: Iterator[pd.DataFrame]) -> Iterator[pd.Series]:
        module, transform = build_network(backbone), build_transform(backbone)

        def prepare(row: pd.Series) -> torch.Tensor:
            pixels = np.frombuffer(row["data"], np.uint8).reshape(row["height"], row["width"], 3)
            return transform(Image.fromarray(pixels[:, :, ::-1]))  # it gives blue first

        def infer(rows: pd.DataFrame) -> list[list[float]]:
            with torch.inference_mode():
                return module(torch.stack([prepare(row) for _, row in rows.iterrows()])).tolist()

        for frame in frames:
            starts = range(0, len(frame), BATCH_SIZE)
            found = [infer(frame.iloc[start : start + BATCH_SIZE]) for start in starts]
            yield pd.Series(list(chain.from_iterable(found)))

    began = time.monotonic()
    photos = (
        spark.read.format("image").option("recursiveFileLookup", "true").load(str(asked.folder))
    )
    rows = photos.select(embed("image").alias("features")).collect()
    report([row["features"] for row in rows], began)


if __name__ == "__main__":
    main()
