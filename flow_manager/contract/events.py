"""The one catalogue of client events and server events: an event outside it can't exist.

Handlers, the reference, AsyncAPI, the command line's help and the contract tests are made from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flow_manager.contract import inside, requests
from flow_manager.contract.activity import Activity, ActivityPage, Subscription
from flow_manager.contract.models import (
    ContainerInfo,
    ContainerMessage,
    ContainerStatus,
    Deleted,
    MessageDelivery,
    WireModel,
)
from flow_manager.contract.principal import READ, WRITE
from flow_manager.contract.wake import ContainerWakeEvent, IdleExplanation, WakeHistory


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """One event that a client may send; its handler is `handle_<name>` of the gateway."""

    name: str
    request: type[WireModel]
    reply: Any  # a model, or list[model], or None for {}
    scope: str
    summary: str

    @property
    def mutating(self) -> bool:
        return issubclass(self.request, requests.Mutation)


@dataclass(frozen=True, slots=True)
class ServerEvent:
    name: str
    data: Any
    summary: str


CLIENT_EVENTS: dict[str, ClientEvent] = {
    event.name: event
    for event in (
        ClientEvent(
            "create_container",
            requests.CreateContainer,
            ContainerInfo,
            WRITE,
            "Make a flow, and start it when asked to.",
        ),
        ClientEvent("start_container", requests.StartContainer, ContainerStatus, WRITE, "Start a flow."),
        ClientEvent("stop_container", requests.StopContainer, ContainerStatus, WRITE, "Stop a flow; it stays stopped."),
        ClientEvent(
            "restart_container", requests.RestartContainer, ContainerStatus, WRITE, "Stop a flow and start it again."
        ),
        ClientEvent("pause_container", requests.ChangeContainer, ContainerStatus, WRITE, "Freeze a running flow."),
        ClientEvent("unpause_container", requests.ChangeContainer, ContainerStatus, WRITE, "Let a paused flow go on."),
        ClientEvent(
            "kill_container",
            requests.KillContainer,
            ContainerStatus,
            WRITE,
            "Send a signal now; ends what is under way.",
        ),
        ClientEvent(
            "delete_container", requests.DeleteContainer, Deleted, WRITE, "Remove a flow and all that it left."
        ),
        ClientEvent(
            "update_container",
            inside.UpdateContainer,
            ContainerInfo,
            WRITE,
            "Replace a flow's code, restart it if it ran, and take it back when that fails.",
        ),
        ClientEvent(
            "rollback_container",
            requests.ChangeContainer,
            ContainerInfo,
            WRITE,
            "Go back to the code that the last update replaced.",
        ),
        ClientEvent(
            "sleep_container",
            requests.ChangeContainer,
            ContainerStatus,
            WRITE,
            "Let a flow sleep now; traffic wakes it again.",
        ),
        ClientEvent(
            "wake_container", requests.WakeContainer, ContainerStatus, WRITE, "Wake a flow, dependencies first."
        ),
        ClientEvent(
            "set_idle_policy",
            requests.SetIdlePolicy,
            IdleExplanation,
            WRITE,
            "Change when a flow sleeps; takes effect at once.",
        ),
        ClientEvent(
            "explain_container", requests.OneContainer, IdleExplanation, READ, "Why a flow is awake or asleep."
        ),
        ClientEvent(
            "subscribe_wake_events", requests.OneContainer, WakeHistory, READ, "Follow the steps of a flow's wakes."
        ),
        ClientEvent("unsubscribe_wake_events", requests.OneContainer, None, READ, "Stop following them."),
        ClientEvent("get_status", requests.OneContainer, ContainerStatus, READ, "How a flow is."),
        ClientEvent("get_container", requests.OneContainer, ContainerInfo, READ, "What a flow is."),
        ClientEvent(
            "list_containers", requests.ListContainers, list[ContainerInfo], READ, "All flows that the caller may see."
        ),
        ClientEvent(
            "send_message",
            requests.SendMessage,
            MessageDelivery,
            WRITE,
            "Give a flow a message, and wait for its reply when asked to.",
        ),
        ClientEvent(
            "exec_container", inside.ExecContainer, inside.ExecResult, WRITE, "Run a command in a flow, to its end."
        ),
        ClientEvent("get_logs", inside.GetLogs, inside.Logs, READ, "The last lines that a flow wrote."),
        ClientEvent(
            "follow_logs", inside.FollowLogs, inside.Following, READ, "The last lines, and then each that it writes."
        ),
        ClientEvent("unfollow_logs", inside.OneSubscription, None, READ, "Stop following them."),
        ClientEvent(
            "follow_usage", requests.OneContainer, inside.Following, READ, "Follow what a flow uses, while it runs."
        ),
        ClientEvent("unfollow_usage", inside.OneSubscription, None, READ, "Stop following it."),
        ClientEvent(
            "attach_container",
            inside.AttachContainer,
            inside.Attached,
            WRITE,
            "Open a terminal in a flow, or join one that is open.",
        ),
        ClientEvent(
            "terminal_input",
            inside.TerminalInput,
            None,
            WRITE,
            "Type; `data` may be one binary attachment. Answered once the program is not far behind with reading.",
        ),
        ClientEvent("terminal_resize", inside.TerminalResize, None, WRITE, "Tell a terminal's program its size."),
        ClientEvent(
            "detach_container",
            inside.OneTerminal,
            None,
            WRITE,
            "Look at a terminal no longer. It stays open for five minutes.",
        ),
        ClientEvent(
            "subscribe_activity",
            requests.SubscribeActivity,
            Subscription,
            READ,
            "Follow what happens, from a cursor or from now.",
        ),
        ClientEvent("unsubscribe_activity", requests.Nothing, None, READ, "Stop following."),
        ClientEvent(
            "list_activity", requests.ListActivity, ActivityPage, READ, "Read back what happened, newest first."
        ),
    )
}

SERVER_EVENTS: dict[str, ServerEvent] = {
    event.name: event
    for event in (
        ServerEvent(
            "hello",
            dict[str, Any],
            "Sent once after the connect: version, contract, instance, stream, principal, tenant, scopes, runtimes.",
        ),
        ServerEvent("error", dict[str, Any], "The error object of a reply that failed, to that client alone."),
        ServerEvent("activity", Activity, "One entry of the activity log, to its subscribers."),
        ServerEvent("container_status", ContainerStatus, "A flow changed its state."),
        ServerEvent("container_message", ContainerMessage, "A flow sent something on its own."),
        ServerEvent(
            "terminal_output",
            inside.TerminalOutput,
            "What a terminal's program wrote, to those who look; `data` is a binary attachment. An offset that jumps: more "
            "than 1 MiB was written while this client did not read, and only the end is kept.",
        ),
        ServerEvent("terminal_closed", inside.TerminalClosed, "A terminal has ended; after all of its output."),
        ServerEvent("log_lines", inside.LogLines, "Lines that a flow wrote, to those who follow them."),
        ServerEvent("resource_usage", inside.UsageSample, "What a flow uses, to those who follow that."),
        ServerEvent("wake_event", ContainerWakeEvent, "One step of a flow's wake, to those who subscribed to them."),
    )
}
