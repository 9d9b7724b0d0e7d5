// A flow that gives every message back, in Node without any package.
import net from "node:net";
import readline from "node:readline";

let socket;

function connect() {
  socket = net.connect(process.env.FLOW_SOCKET);
  const send = (frame) => socket.write(JSON.stringify(frame) + "\n");

  socket.on("connect", () => {
    send({ type: "hello", contract: 1, acks: true });
    send({ type: "ready" });
  });
  const lines = readline.createInterface({ input: socket });
  lines.on("line", (line) => {
    const frame = JSON.parse(line);
    if (frame.type === "message") {
      send({ type: "ack", to: frame.id });
      send({ type: "reply", to: frame.id, body: { echo: frame.body } });
    } else if (frame.type === "ping") {
      send({ type: "pong" });
    }
  });
  // "close" follows; readline passes the error on, and nobody listening would end the program.
  socket.on("error", () => {});
  lines.on("error", () => {});
  // The socket goes away when the manager restarts, and comes back.
  socket.on("close", () => setTimeout(connect, 500));
}

process.on("SIGTERM", () => process.exit(0));
connect();
