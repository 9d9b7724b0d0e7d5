"""The typed client: what the command line, tests and other Python programs talk to a service with.

    async with FlowManagerClient("http://127.0.0.1:8080") as client:
        flow = await client.create_container({"image": "alpine", "name": "hello"}, start=True)
        async for sample in client.follow_usage(flow.id):
            print(sample.resource_usage)

It uses the contract alone and nothing of the service's inside.
"""

from flow_manager.client.client import DEFAULT_URL, FlowManagerClient
from flow_manager.client.errors import ServiceRefused, Unreachable
from flow_manager.client.feed import ActivityFeed
from flow_manager.client.terminals import RemoteTerminal

__all__ = ["DEFAULT_URL", "ActivityFeed", "FlowManagerClient", "RemoteTerminal", "ServiceRefused", "Unreachable"]
