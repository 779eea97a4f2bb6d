"""Fetch, verify and store the images that a partition lists: spark-submit fetch_images.py DATASET."""

from sightline import ingestion, jobs

if __name__ == "__main__":
    jobs.run("fetch_images", ingestion.fetch_images)
