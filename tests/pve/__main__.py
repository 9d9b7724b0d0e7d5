"""`python -m tests.pve`: an emulated Proxmox VE cluster to try things out on, until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from tests.pve.emulator import Emulator

SETTINGS = """
[runtimes.house]
kind = "proxmox"
url = "{url}"
token_id = "{token}"
secret = "{secret}"
ca_file = "{ca}"
storage = "local"
emulated = true
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.pve", description=__doc__)
    parser.add_argument("--port", type=int, default=8006, help="0: any free one (default: 8006)")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--containers", type=int, default=5, help="how many there are, every other one running")
    parser.add_argument("--version", default="9.2.11", help="what it says it is")
    parser.add_argument("--task-time", type=float, default=1.0, help="seconds that each task takes")
    parser.add_argument("--staleness", type=float, default=10.0, help="seconds between two reports of what runs")
    parser.add_argument("--http-port", type=int, default=8080, help="where the containers answer")
    return parser.parse_args()


async def serve(options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    for end in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(end, stopped.set)
    nodes = [f"pve{number}" for number in range(1, options.nodes + 1)]
    emulator = Emulator(
        nodes,
        port=options.port,
        version=options.version,
        task_time=options.task_time,
        staleness=options.staleness,
        linger=3.4,
        lock_wait=10.0,
        ha_delay=10.0,
        http_port=options.http_port,
    )
    async with emulator as pve:
        token, secret = pve.token()
        name, password = pve.user("person@pve", "person-2-enter")
        pve.grant(name, {"/vms": ("VM.Audit", "VM.PowerMgmt", "VM.Console")})
        for number in range(options.containers):
            pve.add_container(nodes[number % len(nodes)], running=number % 2 == 1)
        print(f"Proxmox VE {options.version}, emulated: {pve.url}   (Ctrl-C ends it)")
        print(f"  CA file:   {pve.ca_file}")
        print(f"  API token: {token}={secret}")
        print(f"  user:      {name}, password {password}")
        for vmid, container in pve.containers.items():
            print(f"  CT {vmid} on {container.node}: {container.status}, when it runs http://{pve.address(vmid)}/")
        print(SETTINGS.format(url=pve.url, token=token, secret=secret, ca=pve.ca_file))
        print("Faults, and what a person does at the server, by HTTP (tests/pve/control.py):")
        print(f'  curl --cacert {pve.ca_file} {pve.control_url}/faults/node_offline -d \'{{"node": "{nodes[-1]}"}}\'')
        print(f"  curl --cacert {pve.ca_file} {pve.control_url}/calls", flush=True)
        await stopped.wait()


def main() -> None:
    try:
        asyncio.run(serve(arguments()))
    except OSError as error:
        sys.exit(f"{error} (--port 0 takes any free one)")


if __name__ == "__main__":
    main()
