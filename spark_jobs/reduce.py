"""Fit PCA on the train split and project all features: spark-submit reduce.py DATASET VERSION."""

from sightline import jobs, reduction

if __name__ == "__main__":
    jobs.run_planned("reduce", reduction.reduce_features)
