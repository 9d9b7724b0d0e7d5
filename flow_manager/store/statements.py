"""SQLAlchemy Core statements as text for the sqlite3 module: compiled once, run a million times.

Running them through an engine would cost more than SQLite itself does; the text and its parameters are the same.
"""

from __future__ import annotations

import re

from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.schema import Table

_DIALECT = sqlite.dialect(paramstyle="named")


def text_of(statement: ClauseElement) -> str:
    """The SQL with `:name` parameters; whole numbers that the statement itself gives are written out."""
    compiled = statement.compile(dialect=_DIALECT)
    text = str(compiled)
    # SQLAlchemy makes parameters of its own (for the OFFSET 0 of every LIMIT): nobody would give them.
    for name, value in (compiled.params or {}).items():
        if type(value) is int:
            text = re.sub(rf":{name}\b", str(value), text)
    return text


def insert_text(table: Table, *, or_replace: bool = False) -> str:
    """INSERT of every column of `table`, each a parameter of the same name."""
    statement = table.insert()
    if or_replace:
        statement = statement.prefix_with("OR REPLACE")
    return text_of(statement)
