// Does every event of the catalogue with socket.io-client, unchanged, and prints one JSON object of what it saw.
//   node every_event.mjs URL TRANSPORT TOKEN [CONFIG [CODE]] — TRANSPORT: websocket | polling | upgrade; CONFIG: ContainerConfig as JSON;
//   CODE: a folder with the same code, for an update
import { io } from "socket.io-client";

const [url, transport, token, config = '{"image":"local"}', code_path = "/code"] = process.argv.slice(2);
const transports = transport === "upgrade" ? ["polling", "websocket"] : [transport];
const options = { transports, reconnection: false, forceNew: true, timeout: 10000 };
const replies = {};
const events = { activity: [], container_status: [], container_message: [], wake_event: [], terminal_output: [], terminal_closed: [], log_lines: [], resource_usage: [], error: [] };

const refusal = await new Promise((resolve) => {
  const stranger = io(url, { ...options, auth: { token: "wrong" } });
  stranger.on("connect_error", (err) => resolve({ message: err.message, data: err.data ?? null }));
  stranger.on("connect", () => { stranger.disconnect(); resolve(null); });
});

const socket = io(url, { ...options, auth: token ? { token } : {} });
for (const name of Object.keys(events)) socket.on(name, (data) => events[name].push(data));
const hello = await new Promise((resolve, reject) => {
  socket.on("hello", resolve);
  socket.on("connect_error", reject);
});

async function call(event, ...payload) {
  const reply = await socket.timeout(60000).emitWithAck(event, ...payload);
  if (reply.error) throw new Error(`${event}: ${JSON.stringify(reply)}`);
  replies[event] = reply;
  return reply;
}

async function until(what, condition) {
  const end = Date.now() + 10000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const subscribed = await call("subscribe_activity");
const created = await call("create_container", { ...JSON.parse(config), name: `js-${transport}` });
const container_id = created.data?.id;
await call("start_container", { container_id, wait: "started" });
await call("get_status", { container_id });
await call("get_container", { container_id: `js-${transport}` });
await call("list_containers");
if (process.argv[5]) {
  // A real flow takes a moment to connect to its channel.
  const end = Date.now() + 20000;
  while (!(await call("get_status", { container_id })).data.socket_connected && Date.now() < end)
    await new Promise((resolve) => setTimeout(resolve, 50));
}
await call("send_message", { container_id, message: { hello: "flow" }, expect_reply: true, timeout: 20 });
await call("exec_container", { container_id, command: ["echo", "in", "the flow"] });
const { terminal_id } = (await call("attach_container", { container_id, cols: 80, rows: 24 })).data;
await call("terminal_resize", { terminal_id, cols: 100, rows: 30 });
await call("terminal_input", { terminal_id, data: Buffer.from("echo typed\r") });
const typed = () => Buffer.concat(events.terminal_output.map((event) => event.data)).includes("typed");
await until("what was typed", typed);
await call("detach_container", { terminal_id });
await call("pause_container", { container_id });
await call("unpause_container", { container_id });
await call("subscribe_wake_events", { container_id });
await call("set_idle_policy", { container_id, idle: { idle_timeout: "10m" } });
await call("sleep_container", { container_id });
await call("wake_container", { container_id, wait: true });
await call("explain_container", { container_id });
await until("the end of a wake", () => events.wake_event.some((event) => event.type === "ready"));
await call("unsubscribe_wake_events", { container_id });
await call("get_logs", { container_id, tail: 10 });
const followed = await call("follow_logs", { container_id, tail: 10 });
const used_by = await call("follow_usage", { container_id });
await until("log lines", () => events.log_lines.length > 0);
await until("figures", () => events.resource_usage.length > 0);
await call("unfollow_logs", { subscription_id: followed.data.subscription_id });
await call("unfollow_usage", { subscription_id: used_by.data.subscription_id });
await call("update_container", { container_id, code_path });
await call("update_container", { container_id, code_path });
await call("rollback_container", { container_id });
await call("restart_container", { container_id, timeout: 2 });
await call("stop_container", { container_id, timeout: 2 });
await call("start_container", { container_id });
await call("kill_container", { container_id });
await call("delete_container", { container_id, force: true });
await call("list_activity", { limit: 5 });
await until("a status", () => events.container_status.length > 0);
const again = await call("subscribe_activity", { after: subscribed.data.cursor, stream: subscribed.data.stream });
await call("unsubscribe_activity");
const unknown = await socket.timeout(10000).emitWithAck("no_such_event", {});
const large = await socket.timeout(20000).emitWithAck("get_status", { container_id: "x".repeat(2_000_000) });
const burst = await Promise.all(Array.from({ length: 50 }, () => socket.timeout(20000).emitWithAck("list_containers")));
await until("errors", () => events.error.length >= 2);

const used = socket.io.engine.transport.name;
socket.disconnect();
for (const event of events.terminal_output) event.data = event.data.toString("latin1");
console.log(JSON.stringify({
  refusal, hello, replies, events, again, unknown, large, used,
  burst: burst.filter((reply) => reply.error === false).length,
}));
