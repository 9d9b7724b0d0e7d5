"""Messages that wait for flows that are away: in the order in which they came, until they are delivered or too old."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import bindparam, delete, insert, select

from flow_manager.store.base import StoredMessage
from flow_manager.store.session import Session
from flow_manager.store.statements import text_of
from flow_manager.store.tables import from_micros, outbox, to_micros
from flow_manager.util.strict_json import dumps

_HEAD = (outbox.c.place, outbox.c.flow_id, outbox.c.message_id, outbox.c.size, outbox.c.created_at)
_PUT = text_of(insert(outbox).values({column.name: bindparam(column.name) for column in outbox.columns[1:]}))
_WAITING = text_of(select(*_HEAD).order_by(outbox.c.place))
_BODY = text_of(select(outbox.c.body).where(outbox.c.place == bindparam("place")))
_REMOVE = text_of(delete(outbox).where(outbox.c.place == bindparam("place")))
_PRUNE = text_of(delete(outbox).where(outbox.c.created_at < bindparam("older_than")))


class SqlOutbox:
    """Implements `store.base.OutboxStore`. A flow's messages are removed with the flow, by `SqlFlows.delete`."""

    def __init__(self, writer: Session, reader: Session) -> None:
        self._writer = writer
        self._reader = reader

    async def put(
        self, flow_id: str, message_id: str, body: dict[str, Any], *, size: int, at: datetime
    ) -> StoredMessage:
        row = {
            "flow_id": flow_id,
            "message_id": message_id,
            "body": dumps(body),
            "size": size,
            "created_at": to_micros(at),
        }

        def work(connection: sqlite3.Connection) -> int:
            place = connection.execute(_PUT, row).lastrowid
            assert place is not None
            return place

        return StoredMessage(await self._writer.write(work), flow_id, message_id, size, at)

    async def waiting(self) -> list[StoredMessage]:
        rows = await self._reader.run(lambda connection: connection.execute(_WAITING).fetchall())
        return [
            StoredMessage(place, flow_id, message_id, size, from_micros(micros))
            for place, flow_id, message_id, size, micros in rows
        ]

    async def body(self, place: int) -> dict[str, Any] | None:
        row = await self._reader.run(lambda connection: connection.execute(_BODY, {"place": place}).fetchone())
        return None if row is None else orjson.loads(row[0])

    async def remove(self, places: Sequence[int]) -> None:
        rows = [{"place": place} for place in places]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(_REMOVE, rows)

        if rows:
            await self._writer.write(work)

    async def prune(self, *, older_than: datetime) -> int:
        moment = {"older_than": to_micros(older_than)}
        return await self._writer.write(lambda connection: connection.execute(_PRUNE, moment).rowcount)
