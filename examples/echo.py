"""A flow that gives every message back, with the SDK."""

from flow_sdk import Flow

flow = Flow()


@flow.on_message
def handle(body):
    return {"echo": body}


@flow.on_stopping
def stopping(seconds):
    flow.event("echo", "asked to stop", within_seconds=seconds)


flow.ready()
flow.run()
