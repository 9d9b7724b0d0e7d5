"""alembic runs this file for each command; the connection is given in by `migrations.upgrade`."""

from __future__ import annotations

from alembic import context

from flow_manager.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    # SQLite changes a table by copying it; alembic's batch mode does that.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
