"""Fit the classifier on the train split: spark-submit train.py DATASET VERSION."""

from sightline import jobs, training

if __name__ == "__main__":
    jobs.run_planned("train", training.train_classifier)
