"""List a source whose tables are joined in Spark: spark-submit list_images.py DATASET."""

from sightline import jobs

if __name__ == "__main__":
    jobs.run_listing()
