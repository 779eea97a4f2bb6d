"""Instance types and what they cost. List prices of us-east-1 on demand, in dollars, as AWS had them in 2025;
a plan says which it took, and `--price` takes another.
"""

import difflib
from dataclasses import dataclass

from sightline.errors import ConfigError

GIB = 2**30
PRICES_OF = "AWS's list for us-east-1 in 2025"


@dataclass(frozen=True)
class Instance:
    """A machine that can be rented."""

    name: str
    cores: int  # vCPU; one counts as a core of the machine that was measured
    memory_gigabytes: int
    dollars_per_hour: float


INSTANCES = {
    one.name: one
    for one in (
        Instance("c7i.xlarge", 4, 8, 0.1785),
        Instance("c7i.4xlarge", 16, 32, 0.714),
        Instance("m7i.xlarge", 4, 16, 0.2016),
        Instance("m7i.2xlarge", 8, 32, 0.4032),
        Instance("m7i.4xlarge", 16, 64, 0.8064),
        Instance("r7i.2xlarge", 8, 64, 0.5292),
        Instance("r7i.8xlarge", 32, 256, 2.1168),
        Instance("r7i.16xlarge", 64, 512, 4.2336),
    )
}


@dataclass(frozen=True)
class Prices:
    """What is paid beside the instances, in dollars."""

    emr_share: float = 0.25  # EMR's own price, of the instance's
    serverless_core_hour: float = 0.052624
    serverless_gigabyte_hour: float = 0.0057785
    storage_gigabyte_month: float = 0.023
    requests_per_thousand: float = 0.005  # that write; those that read cost a twelfth


@dataclass(frozen=True)
class Cluster:
    """Executors, and the one machine that drives them and runs the Python stages."""

    instance: Instance
    executors: int

    @property
    def cores(self) -> int:
        """Of all executors."""
        return self.instance.cores * self.executors

    @property
    def memory_bytes(self) -> int:
        """Of one machine."""
        return self.instance.memory_gigabytes * GIB

    def dollars(self, hours: float) -> float:
        """Of executors and driver, without EMR's share."""
        return (self.executors + 1) * self.instance.dollars_per_hour * hours

    def serverless_dollars(self, hours: float, prices: Prices) -> float:
        """The same sizes in EMR Serverless."""
        one = (
            self.instance.cores * prices.serverless_core_hour
            + self.instance.memory_gigabytes * prices.serverless_gigabyte_hour
        )
        return (self.executors + 1) * one * hours


def choose_instance(name: str, dollars_per_hour: float | None = None) -> Instance:
    """An instance type by its name, at its list price or at one's own."""
    if name not in INSTANCES:
        close = difflib.get_close_matches(name, INSTANCES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ConfigError(f"Unknown instance type {name!r}{hint} Known: {', '.join(INSTANCES)}.")
    found = INSTANCES[name]
    price = found.dollars_per_hour if dollars_per_hour is None else dollars_per_hour
    return Instance(found.name, found.cores, found.memory_gigabytes, price)
