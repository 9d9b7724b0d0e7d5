"""explain: why a flow is awake or asleep, in words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from flow_manager.cli.options import FlowId, Json, Token, Url, target
from flow_manager.cli.output import print_json, print_table, say
from flow_manager.cli.run import with_client

if TYPE_CHECKING:
    from flow_manager.client import FlowManagerClient


def register(app: typer.Typer) -> None:
    app.command()(explain)


def explain(context: typer.Context, flow: FlowId, url: Url = None, token: Token = None, as_json: Json = False) -> None:
    """Why a flow is awake or asleep, and what happens next."""
    goal = target(context, url, token, as_json)

    async def work(client: FlowManagerClient) -> dict[str, Any]:
        found: dict[str, Any] = await client.call("explain_container", {"container_id": flow})
        return found

    data = with_client(goal, work)
    if goal.as_json:
        print_json(data)
    else:
        show(data)


def show(data: dict[str, Any]) -> None:
    """An IdleExplanation for people."""
    now = datetime.now(UTC)
    for line in what_it_is(data, now):
        say(line)
    if data["leases"]:
        say("")
        print_table(
            ["IN USE", "BY", "FOR", "UNTIL"],
            [
                [lease["kind"], lease["holder"], span(lease["age"]), _expiry(lease["expires_in"])]
                for lease in data["leases"]
            ],
        )
        say("")
    for line in what_was_and_will_be(data, now):
        say(line)


def what_it_is(data: dict[str, Any], now: datetime) -> list[str]:
    lines = [f"{data['name']} ({data['container_id']}) is {data['flow_state']}: {data['summary']}"]
    if data["desired"] == "stopped" and data["flow_state"] != "napping":  # then the summary has said it
        lines.append("somebody stopped it: traffic doesn't wake it; start, wake or send --wake does")
    lines.append(f"policy: {policy_words(data['idle'])}")
    for field, words in (("waiting_for", "waits for"), ("error", "error")):
        if data.get(field):
            lines.append(f"{words}: {data[field]}")
    if data["crashes"]:
        lines.append(f"failures in a row: {data['crashes']}")
    if data["retry_in"] is not None:
        lines.append(f"may be woken again in {span(data['retry_in'])}")
    return lines


def what_was_and_will_be(data: dict[str, Any], now: datetime) -> list[str]:
    lines = []
    if data["sleeps_in"] is not None:
        at = f" (at {_clock(data['sleeps_at'])})" if data["sleeps_at"] else ""
        lines.append(f"sleeps in {span(data['sleeps_in'])}{at}")
    elif data["leases"]:
        lines.append("doesn't sleep while it is in use")
    for field, words in (("last_slept", "last slept"), ("last_woke", "last woke")):
        if (note := data[field]) is not None:
            took = f", took {span(note['took'])}" if note.get("took") is not None else ""
            lines.append(f"{words} {_ago(note['at'], now)}: {note['reason']}{took}")
    return lines


def policy_words(idle: dict[str, Any] | None) -> str:
    if idle is None:
        return "none; it never sleeps, and traffic doesn't wake it"
    timeout = idle.get("idle_timeout") or 0
    method = {"pause": "paused", "stop": "stopped", "kill": "killed"}.get(idle.get("stop_method", "stop"), "stopped")
    words = [f"{method} after {span(timeout)} without use" if timeout else "never sleeps, but wakes"]
    if depends := idle.get("depends_on"):
        words.append("needs " + ", ".join(f"{item['container']} ({item['condition']})" for item in depends))
    if ready := idle.get("ready"):
        words.append("ready by " + ", ".join(sorted(key for key, value in ready.items() if value is not None)))
    if endpoint := idle.get("start_endpoint"):
        words.append(f"woken below {endpoint} alone")
    words.append(f"a wake fails after {span(idle.get('wake_timeout', 180))}")
    return "; ".join(words)


def span(seconds: float) -> str:
    """`0.3 s`, `42 s`, `5 min 3 s`, `2 h 4 min`, `3 d 1 h`: never more than two units."""
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for place, (size, unit) in enumerate(units):
        if whole >= size:
            count, rest = divmod(whole, size)
            text = f"{count} {unit}"
            if place + 1 < len(units):
                smaller, name = units[place + 1]
                if rest // smaller:
                    text += f" {rest // smaller} {name}"
            return text
    return "0 s"


def _expiry(seconds: float | None) -> str:
    return "it ends" if seconds is None else f"{span(seconds)} without use"


def _clock(text: str) -> str:
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%H:%M:%S")
    except (ValueError, TypeError):
        return "?"


def _ago(text: str, now: datetime) -> str:
    try:
        return f"{span(max(0.0, (now - datetime.fromisoformat(text)).total_seconds()))} ago"
    except (ValueError, TypeError):
        return "?"
