"""Embed the images that have no features yet: spark-submit featurize.py DATASET."""

from sightline import featurization, jobs

if __name__ == "__main__":
    jobs.run("featurize", featurization.featurize, featurization.import_torch)
