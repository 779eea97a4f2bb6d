"""Train a dataset's network in several settings: spark-submit scaling_study.py DATASET PARAMETERS."""

from sightline import jobs

if __name__ == "__main__":
    jobs.run_study()
