"""Train the network on the images of the train split: spark-submit fine_tune.py DATASET VERSION."""

from sightline import fine_tuning, jobs

if __name__ == "__main__":
    jobs.run_planned("fine_tune", fine_tuning.fine_tune)
