"""Score the test images with the fine-tuned network: spark-submit score.py DATASET VERSION."""

from sightline import fine_tuning, jobs

if __name__ == "__main__":
    jobs.run_planned("score", fine_tuning.score)
