"""Alembic's entry. gateway.storage.migrate passes its connection in; the transaction and the lock are its own."""

from alembic import context

from gateway.storage.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite alters a table by building it anew
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
