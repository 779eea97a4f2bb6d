"""Spark's Python daemon with torch and our worker's code already imported: workers are forked from it, so
a core pays the seconds of the imports once instead of each worker, and the workers share its memory.
A worker collects garbage after each task; what is imported is frozen, so that it is not looked through.

Set as spark.python.daemon.module by the featurize task.
"""

import gc

import safetensors.torch  # noqa: F401  (imported for the workers)
import torch.fx.experimental.optimization  # noqa: F401, TID253
import torchvision.transforms.v2.functional  # noqa: F401, TID253
from pyspark.daemon import manager  # noqa: TID253

import sightline.backbones.worker  # noqa: F401

if __name__ == "__main__":
    gc.freeze()
    manager()
