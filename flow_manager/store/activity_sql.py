"""The statements of the activity log, and how a row becomes an entry."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import bindparam, delete, func, select, text

from flow_manager.contract.activity import Activity
from flow_manager.store.base import ActivityDraft, StoredActivity
from flow_manager.store.statements import insert_text, text_of
from flow_manager.store.tables import activity, from_micros
from flow_manager.util.strict_json import dumps

_C = activity.c
COLUMNS = tuple(item.name for item in activity.columns)

INSERT = insert_text(activity)
COUNT = text_of(select(func.count()).select_from(activity))
OLDEST = text_of(select(func.min(_C.cursor)))
# Walks from the oldest entry and stops at the first that stays: the cost is what goes, not what is kept.
FIRST_YOUNG = text_of(select(_C.cursor).where(_C.timestamp >= bindparam("moment")).order_by(_C.cursor).limit(1))
NTH_OLDEST = text_of(select(_C.cursor).order_by(_C.cursor).limit(1).offset(bindparam("n")))
DELETE_UP_TO = text_of(delete(activity).where(_C.cursor <= bindparam("cut")))
# SQLite's own table: the highest cursor that was ever given, also when its row is gone.
HEAD = "SELECT seq FROM sqlite_sequence WHERE name = 'activity'"
SET_HEAD = "UPDATE sqlite_sequence SET seq = :head WHERE name = 'activity'"
FIRST_HEAD = "INSERT INTO sqlite_sequence (name, seq) VALUES ('activity', :head)"


@lru_cache(maxsize=64)
def select_text(*, after: bool, before: bool, tenant: bool, container: bool, types: bool, newest_first: bool) -> str:
    """The SELECT for a combination of filters; at most 64 exist."""
    statement = select(activity)
    if after:
        statement = statement.where(_C.cursor > bindparam("after"))
    if before:
        statement = statement.where(_C.cursor < bindparam("before"))
    if container:
        statement = statement.where(_C.container_id == bindparam("container_id"))
    if tenant:
        # "+" keeps SQLite from choosing the tenant's index where the flow's, far narrower, is there to be used.
        name: Any = text("+activity.tenant = :tenant") if container else _C.tenant == bindparam("tenant")
        statement = statement.where(name)
    if types:
        # One parameter for any number of types: a client may name more than SQLite takes parameters. "+" as above.
        statement = statement.where(text("+activity.type IN (SELECT value FROM json_each(:types))"))
    order = _C.cursor.desc() if newest_first else _C.cursor
    return text_of(statement.order_by(order).limit(bindparam("limit")))


def row_of(cursor: int, draft: ActivityDraft, micros: int) -> dict[str, Any]:
    return {
        "cursor": cursor,
        "tenant": draft.tenant,
        "type": draft.type,
        "container_id": draft.container_id,
        "name": draft.name,
        "actor": draft.actor,
        "message": draft.message,
        "details": dumps(draft.details),
        "timestamp": micros,
    }


def entry_of_draft(stream: str, cursor: int, draft: ActivityDraft, micros: int) -> StoredActivity:
    """What a later read will give, without reading."""
    return StoredActivity(
        draft.tenant,
        Activity.model_construct(
            cursor=cursor,
            stream=stream,
            type=draft.type,
            container_id=draft.container_id,
            name=draft.name,
            actor=draft.actor,
            message=draft.message,
            details=draft.details,
            timestamp=from_micros(micros),
        ),
    )


def entry_of_row(stream: str, row: tuple[Any, ...]) -> StoredActivity:
    cursor, tenant, kind, container_id, name, actor, message, details, micros = row
    # `model_construct`: the row was checked when it was written, and checking costs more than reading it.
    return StoredActivity(
        tenant,
        Activity.model_construct(
            cursor=cursor,
            stream=stream,
            type=kind,
            container_id=container_id,
            name=name,
            actor=actor,
            message=message,
            details=orjson.loads(details),
            timestamp=from_micros(micros),
        ),
    )
