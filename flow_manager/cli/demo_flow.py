"""The program inside the demo's flow; `flow_sdk.py` lies beside it. It gives every message back."""

from flow_sdk import Flow

flow = Flow()


@flow.on_message
def handle(body: object) -> object:
    flow.event("echo", "was asked something")
    return {"echo": body}


flow.ready()
flow.run()
