"""Replies kept for repeated requests."""

from __future__ import annotations

import sqlite3
from datetime import datetime

import orjson
from sqlalchemy import bindparam, delete, select

from flow_manager.store.base import StoredReply
from flow_manager.store.session import Session
from flow_manager.store.statements import insert_text, text_of
from flow_manager.store.tables import from_micros, replies, to_micros
from flow_manager.util.strict_json import dumps

_GET = text_of(
    select(replies.c.fingerprint, replies.c.reply, replies.c.created_at).where(
        replies.c.principal == bindparam("principal"), replies.c.request_id == bindparam("request_id")
    )
)
_PUT = insert_text(replies, or_replace=True)
_PRUNE = text_of(delete(replies).where(replies.c.created_at < bindparam("older_than")))


class SqlReplies:
    """Implements `store.base.ReplyStore`."""

    def __init__(self, writer: Session, reader: Session) -> None:
        self._writer = writer
        self._reader = reader

    async def get(self, principal: str, request_id: str) -> StoredReply | None:
        key = {"principal": principal, "request_id": request_id}
        row = await self._reader.run(lambda connection: connection.execute(_GET, key).fetchone())
        if row is None:
            return None
        fingerprint, reply, created_at = row
        return StoredReply(principal, request_id, fingerprint, orjson.loads(reply), from_micros(created_at))

    async def put(self, reply: StoredReply) -> None:
        """Insert or replace."""

        def work(connection: sqlite3.Connection) -> None:
            row = {
                "principal": reply.principal,
                "request_id": reply.request_id,
                "fingerprint": reply.fingerprint,
                "reply": dumps(reply.reply),
                "created_at": to_micros(reply.created_at),
            }
            connection.execute(_PUT, row)

        await self._writer.write(work)

    async def prune(self, *, older_than: datetime) -> int:
        moment = {"older_than": to_micros(older_than)}
        return await self._writer.write(lambda connection: connection.execute(_PRUNE, moment).rowcount)
