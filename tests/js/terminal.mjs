// Drives a terminal with socket.io-client, unchanged: types, resizes, interrupts, leaves.  node terminal.mjs URL TRANSPORT FLOW
import { io } from "socket.io-client";

const [url, transport, container_id] = process.argv.slice(2);
const socket = io(url, { transports: [transport], reconnection: false, forceNew: true });
let shown = "", code, next = 0, gaps = 0;
socket.on("terminal_output", ({ offset, data }) => {
  if (offset !== next) gaps++;
  next = offset + data.length;
  shown += data.toString("latin1");
});
socket.on("terminal_closed", ({ exit_code }) => { code = exit_code; });
await new Promise((resolve, reject) => { socket.on("hello", resolve); socket.on("connect_error", reject); });

async function call(event, payload) {
  const reply = await socket.timeout(20000).emitWithAck(event, payload);
  if (reply.error) throw new Error(`${event}: ${reply.message}`);
  return reply.data;
}

async function until(what, condition, again) {
  const end = Date.now() + 20000;
  for (let turn = 0; !condition(); turn++) {
    if (Date.now() > end) throw new Error(`waited in vain for ${what}: ${JSON.stringify(shown.slice(-500))}`);
    if (again && turn % 30 === 0) await again();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const { terminal_id } = await call("attach_container", { container_id, cols: 90, rows: 30 });
const type = (data) => call("terminal_input", { terminal_id, data });
await until("the size", () => shown.includes("30 90\r\n"), () => type("stty size\r"));
await call("terminal_resize", { terminal_id, cols: 70, rows: 20 });
await until("the new size", () => shown.includes("20 70\r\n"), () => type(Buffer.from("stty size\r")));
await type("echo re''ady; sleep 600\r");
await until("a sleep", () => shown.includes("ready\r\n"));
await type(new Uint8Array([3]));
await until("the shell again", () => shown.includes("again\r\n"), () => type("echo ag''ain\r"));
await type("exit 7\r");
await until("its end", () => code !== undefined);
socket.disconnect();
console.log(JSON.stringify({ code, gaps }));
