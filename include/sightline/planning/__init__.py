"""Hours, machines, storage and money for a dataset of any size, from what was measured of each stage.

measured    figures of the benchmarks' results
parts       what each stage of the pipeline needs at a size
machines    instance types and their prices
plan        the parts put together, and where each is outgrown
simulation  chunks on cores with one committer, event by event: what the formulas of `parts` are held against
"""

from sightline.planning.machines import Cluster, Prices, choose_instance
from sightline.planning.measured import Measured, read_measured
from sightline.planning.plan import Plan, make_plan, size_of

__all__ = [
    "Cluster",
    "Measured",
    "Plan",
    "Prices",
    "choose_instance",
    "make_plan",
    "read_measured",
    "size_of",
]
