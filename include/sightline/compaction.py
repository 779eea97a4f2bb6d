"""Many small files of a table made into few large ones: the same rows, in one commit, whoever writes
meanwhile.

A chunk or a night leaves a file, and a reader asks the store for each. What was merged is merged again
only with as many others, so a row is copied a few times in its life.
"""

from sightline import delta, tables
from sightline.tables import Table, Writer

WRITER = Writer("compaction")
SMALL_BYTES = 32 * 2**20
LEAST_FILES = 8  # small ones in a partition, from which on merging pays
ROWS_AT_ONCE = 64  # of a table that may hold encoded photos


def compact(table: Table) -> int:
    """Merge the small files of each partition that has many; returns how many were merged."""
    opened = tables.open_table(table)
    if opened is None:
        return 0
    sizes = delta.file_sizes(opened)
    merged = 0
    for partition, urls in delta.grouped_urls(table, opened).items():
        if len(_small(urls, sizes)) >= LEAST_FILES:
            merged += _merge(table, partition, sizes)
    return merged


def data_version(table: Table) -> int | None:
    """The newest version but for compactions after it, which change no row; None where there is none.

    A training is planned by it: merged files alone are nothing new to learn from.
    """
    opened = tables.open_table(table)
    if opened is None:
        return None
    for limit in (16, None):
        for commit in opened.history(limit):
            if commit.get("sightline.task") != WRITER.identity:
                return int(commit["version"])
    return opened.version()  # the log does not reach back so far


def _merge(table: Table, partition: str | None, sizes: dict[str, int]) -> int:
    merged = 0

    def rewrite(urls: list[str]) -> list[str] | None:
        nonlocal merged
        small = _small(urls, sizes)
        merged = len(small)
        if merged < LEAST_FILES:  # another task has changed the partition
            return None
        batches = tables.dataset_of(small, table.schema).to_batches(
            batch_size=ROWS_AT_ONCE, batch_readahead=1, fragment_readahead=1
        )
        gone = set(small)
        rest = [url for url in urls if url not in gone]
        return [*rest, *tables.write_batches(table, batches)]

    tables.exchange(table, partition, rewrite, WRITER)
    return merged


def _small(urls: list[str], sizes: dict[str, int]) -> list[str]:
    return [url for url in urls if sizes.get(tables.file_name(url), SMALL_BYTES) < SMALL_BYTES]
