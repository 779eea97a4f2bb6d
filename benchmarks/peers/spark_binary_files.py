"""Spark: predict_batch_udf over the binaryFile data source."""

import io
import time
from typing import Any

import network
import numpy as np
import torch
from network import BATCH_SIZE, build_network, build_transform, parse_arguments, report
from PIL import Image
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, FloatType


def main() -> None:
    """Featurize the folder."""
    asked = parse_arguments()
    backbone = asked.backbone

    def make_predict_fn() -> Any:
        module, transform = build_network(backbone), build_transform(backbone)

        def predict(contents: np.ndarray) -> np.ndarray:
            pictures = [transform(Image.open(io.BytesIO(one)).convert("RGB")) for one in contents]
            with torch.inference_mode():
                return module(torch.stack(pictures)).numpy()

        return predict

    spark = SparkSession.builder.master("local[*]").getOrCreate()
    spark.sparkContext.addPyFile(network.__file__)
    began = time.monotonic()
    photos = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    embed = predict_batch_udf(
        make_predict_fn, return_type=ArrayType(FloatType()), batch_size=BATCH_SIZE
    )
    rows = photos.load(str(asked.folder)).select(embed("content").alias("features")).collect()
    report([row["features"] for row in rows], began)


if __name__ == "__main__":
    main()
