"""Score new images with the fine-tuned champion: spark-submit score_new.py DATASET WANTED."""

from sightline import fine_tuning, jobs

if __name__ == "__main__":
    jobs.run_wanted("score_new", fine_tuning.score_new)
