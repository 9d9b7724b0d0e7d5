from __future__ import annotations

from sqlalchemy import bindparam, select

from flow_manager.store.statements import insert_text, text_of
from flow_manager.store.tables import meta


def test_numbers_that_the_statement_gives_are_written_out() -> None:
    assert text_of(select(meta.c.key).limit(1)).replace("\n", "") == 'SELECT meta."key" FROM meta LIMIT 1 OFFSET 0'


def test_parameters_keep_their_names() -> None:
    assert text_of(select(meta.c.value).where(meta.c.key == bindparam("key"))).endswith("= :key")


def test_an_insert_names_every_column() -> None:
    assert insert_text(meta, or_replace=True) == 'INSERT OR REPLACE INTO meta ("key", value) VALUES (:key, :value)'
