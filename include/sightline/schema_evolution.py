"""Columns that a table made by an older release misses: added to its log, null in its files."""

from contextlib import suppress

import pyarrow as pa
from deltalake import DeltaTable, PostCommitHookProperties, Schema
from deltalake.exceptions import CommitFailedError

# Of every commit. Else delta-rs forgets versions after 30 days, which models name: log_cleaning.py knows
# which may go.
KEEP_LOG = PostCommitHookProperties(cleanup_expired_logs=False)


def missing_columns(opened: DeltaTable, schema: pa.Schema) -> list[str]:
    """Columns of a schema that the table's log does not name."""
    known = {field.name for field in opened.schema().fields}
    return [name for name in schema.names if name not in known]


def add_missing_columns(opened: DeltaTable, schema: pa.Schema) -> None:
    """Bring the log up to the schema, in one commit; ours or that of somebody who was faster."""
    missing = missing_columns(opened, schema)
    while missing:
        fields = Schema.from_arrow(pa.schema([schema.field(name) for name in missing])).fields
        with suppress(CommitFailedError):  # another writer came first; look at what it has left
            opened.alter.add_columns(fields, post_commithook_properties=KEEP_LOG)
        opened.update_incremental()
        missing = missing_columns(opened, schema)
