"""Bringing an older file up to date, with alembic, without a config file and without touching anybody's logging.

One file a step in `versions/`: `r<NNNN>_<what>.py`, its revision is `<NNNN>`, one more than the one before. Steps only go
forward: an older program refuses a newer file. `REVISIONS` repeats the numbers, so that a file which is up to date, the
usual case, is recognised with one query; importing alembic costs more than opening the store.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

REVISIONS = ("0001", "0002", "0003")
HEAD = REVISIONS[-1]
VERSION_TABLE = "alembic_version"


def alembic_config() -> Any:
    from alembic.config import Config

    config = Config()
    # alembic reads its options through configparser, to which a "%" in the path means interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(path: Path, *, to: str = "head") -> None:
    """Run every missing step in one transaction: a failing one leaves the file as it was. Blocking.

    :raises sqlalchemy.exc.SQLAlchemyError: a step failed.
    """
    from alembic import command
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    def connect() -> sqlite3.Connection:
        # Autocommit, and our own BEGIN below: the sqlite3 module by itself would run DDL outside of any transaction.
        return sqlite3.connect(path, isolation_level=None, timeout=10)

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    config = alembic_config()
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, to)
    finally:
        engine.dispose()
