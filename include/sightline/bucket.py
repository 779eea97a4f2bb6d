"""The bucket that SIGHTLINE_STORAGE names, made where there is none: python -m sightline.bucket"""

import sys

from sightline import storage
from sightline.settings import load_settings


def make_bucket(url: str) -> str | None:
    """Make the bucket of an object store's URL; returns its name, or None where it was there, is not ours to
    look at, or the URL is a path of this machine.
    """
    if storage.is_local(url):
        return None
    fs, path = storage.filesystem(url)
    bucket = path.split("/", 1)[0]
    try:
        if fs.exists(bucket):
            return None
        fs.mkdir(bucket)
    except PermissionError:  # keys for one prefix of it, as they should be
        return None
    return bucket


if __name__ == "__main__":
    made = make_bucket(load_settings().storage)
    sys.stdout.write(f"Made bucket {made}.\n" if made else "The storage is there.\n")
