"""The program inside the demo's flow; `flow_sdk.py` lies beside it. It gives every message back, and answers over HTTP."""

import http.server
import json
import os
import threading

from flow_sdk import Flow

flow = Flow()


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one write: in two, the second would wait 40 ms for the peer's acknowledgement of the first.
    wbufsize = -1

    def do_GET(self) -> None:
        body = json.dumps({"flow": flow.flow_id, "path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@flow.on_message
def handle(body: object) -> object:
    flow.event("echo", "was asked something")
    return {"echo": body}


# A process is told its port, on an address that only this machine reaches; a container has all of its own ports.
given = os.environ.get("PORT")
server = http.server.ThreadingHTTPServer(("127.0.0.1" if given else "", int(given or 8000)), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()

flow.ready()
flow.run()
