"""The `keep:` block of a dataset file: how long what nothing needs any more is kept, until maintenance
removes it.

What the tables count, and what the champion and the models kept whole are made of, stays in any case.
"""

from pydantic import Field

from sightline.source_config import Section


class KeepSpec(Section):
    """What maintenance keeps."""

    # Files of older table versions, and what a killed task has left. A task that runs longer between
    # writing a file and committing it would lose it.
    days: int = Field(7, ge=1)
    models: int = Field(30, ge=1)  # the newest plans, whose models keep weights, tables and report
    run_days: int = Field(90, ge=1)  # records of runs, and pages of validations
