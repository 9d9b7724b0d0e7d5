"""A flow that gives every message back, with the SDK."""

from flow_sdk import Flow

flow = Flow()


@flow.on_message
def handle(body):
    print(f"echo: {body}", flush=True)  # what a flow writes is its log
    return {"echo": body}


@flow.on_stopping
def stopping(seconds):
    flow.event("echo", "asked to stop", within_seconds=seconds)


flow.ready()
flow.run()
