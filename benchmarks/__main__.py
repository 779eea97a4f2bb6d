"""All benchmarks in order, or those that are named, then the page: what `make bench` runs.

.venv/bin/python -m benchmarks [throughput] [night] ...
"""

import argparse
import subprocess
import sys

from benchmarks import plots
from benchmarks.measuring import HOME

ORDER = ("throughput", "cluster", "night", "pca", "training", "spark_overhead", "fetch", "gpu", "memory",
         "near_duplicates", "gallery", "serving", "scale")  # fmt: skip


def main() -> None:
    """Run each as a program of its own: its command is what its results name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="benchmark", help=", ".join(ORDER))
    asked = parser.parse_args()
    unknown = sorted(set(asked.names) - set(ORDER))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; known: {', '.join(ORDER)}")
    for name in asked.names or ORDER:
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=HOME, check=True)
    plots.write()


if __name__ == "__main__":
    main()
