"""The flows that the manager made or adopted."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, select, update

from flow_manager.store.base import FlowRecord
from flow_manager.store.session import Session
from flow_manager.store.statements import insert_text, text_of
from flow_manager.store.tables import flows, from_micros, outbox, to_micros

_SAVE = insert_text(flows, or_replace=True)
_DELETE = text_of(delete(flows).where(flows.c.id == bindparam("id")))
# Messages for a flow that is gone would wait for ever: they go in the same transaction.
_DELETE_MESSAGES = text_of(delete(outbox).where(outbox.c.flow_id == bindparam("id")))
_ALL = text_of(select(flows).order_by(flows.c.created_at, flows.c.id))
_USED = text_of(update(flows).where(flows.c.id == bindparam("flow")).values(last_used_at=bindparam("at")))
_COLUMNS = tuple(column.name for column in flows.columns)


class SqlFlows:
    """Implements `store.base.FlowStore`."""

    def __init__(self, writer: Session, reader: Session) -> None:
        self._writer = writer
        self._reader = reader

    async def save(self, record: FlowRecord) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_SAVE, _row_of(record))

        await self._writer.write(work)

    async def delete(self, flow_id: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_DELETE_MESSAGES, {"id": flow_id})
            connection.execute(_DELETE, {"id": flow_id})

        await self._writer.write(work)

    async def all(self) -> list[FlowRecord]:
        """Oldest first."""
        return await self._reader.run(lambda connection: [_record_of(row) for row in connection.execute(_ALL)])

    async def used(self, times: Mapping[str, datetime]) -> None:
        """One transaction for all: ten thousand flows cost one commit, not ten thousand."""
        rows = [{"flow": flow_id, "at": to_micros(at)} for flow_id, at in times.items()]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(_USED, rows)

        if rows:
            await self._writer.write(work)


def _row_of(record: FlowRecord) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _COLUMNS}
    row["created_at"] = to_micros(record.created_at)
    row["last_used_at"] = None if record.last_used_at is None else to_micros(record.last_used_at)
    return row


def _record_of(row: tuple[Any, ...]) -> FlowRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["created_at"] = from_micros(values["created_at"])
    if values["last_used_at"] is not None:
        values["last_used_at"] = from_micros(values["last_used_at"])
    values["adopted"] = bool(values["adopted"])
    return FlowRecord(**values)
