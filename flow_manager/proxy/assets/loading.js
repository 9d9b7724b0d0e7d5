
(() => {
  "use strict";
  const LOOK_EVERY = 5000; // ms; the event stream may be swallowed by something in between, the status is not
  const FIRST_LOOK = 1500;
  const at = (id) => document.getElementById(id);
  const page = JSON.parse(at("data").textContent);
  // Times are the server's: this machine's clock may be minutes off.
  const skew = Date.parse(page.now) - Date.now();
  const now = () => Date.now() + skew;
  let begun = page.began === null ? now() : Date.parse(page.began);
  let expected = page.expected;
  let source = null;
  let leaving = false;

  const mode = () => document.body.dataset.mode;
  function show(next, headline, reason) {
    document.body.dataset.mode = next;
    at("headline").textContent = headline;
    at("reason").textContent = reason || "";
    const button = at("again").querySelector("button");
    button.disabled = false;
    button.textContent = next === "asleep" ? "Wake it" : "Try again";
    document.title = (next === "waking" ? "Waking " : next === "failed" ? "Failed: " : "") + page.name;
  }

  function seconds(ms) {
    const value = Math.max(0, ms) / 1000;
    return value < 10 ? value.toFixed(1) + " s" : value < 120 ? Math.round(value) + " s" : Math.round(value / 60) + " min";
  }

  function tick() {
    if (mode() !== "waking") return;
    const spent = now() - begun;
    const bar = at("bar");
    if (expected === null) {
      bar.removeAttribute("value");
      at("left").textContent = seconds(spent) + " so far";
      return;
    }
    const left = expected * 1000 - spent;
    bar.value = Math.min(0.97, spent / (expected * 1000));
    at("left").textContent =
      left > 500 ? "About " + Math.ceil(left / 1000) + " s to go" : "Taking longer than usual: " + seconds(spent) + " so far";
  }

  function addStep(event) {
    const steps = at("steps");
    if (steps.querySelector('[data-id="' + Number(event.id) + '"]')) return;
    const last = steps.lastElementChild;
    if (last && (last.dataset.type === "error" || last.dataset.type === "ready")) steps.replaceChildren();
    if (!steps.firstElementChild) begun = Date.parse(event.timestamp);
    const item = document.createElement("li");
    item.dataset.type = event.type;
    item.dataset.id = Number(event.id);
    const what = document.createElement("span");
    what.textContent = event.type === "error" ? "failed" : event.message; // the reason has a place of its own
    const when = document.createElement("time");
    when.dateTime = event.timestamp;
    when.textContent = "+" + seconds(Date.parse(event.timestamp) - begun);
    item.append(what, when);
    steps.append(item);
  }

  function step(event) {
    addStep(event);
    if (event.type === "ready") go();
    else if (event.type === "error") fail(event.message);
    else if (mode() !== "waking") show("waking", "Waking up…");
    tick();
  }

  function follow(after) {
    unfollow();
    source = new EventSource("/.flow/wake-events" + (after === null ? "" : "?after=" + after));
    source.onmessage = (message) => step(JSON.parse(message.data));
    source.onerror = () => { if (source && source.readyState === EventSource.CLOSED) unfollow(); };
  }
  function unfollow() {
    if (source) source.close();
    source = null;
  }

  function go() {
    if (leaving) return;
    leaving = true;
    unfollow();
    show("ready", "It is awake.");
    if (page.to === null) location.reload();
    else location.replace(page.to);
  }

  async function fail(reason) {
    unfollow();
    show("failed", "It could not be woken.", reason);
    if (!page.logs) return;
    try {
      const answer = await fetch("/.flow/logs", { cache: "no-store" });
      if (answer.ok) at("lines").textContent = (await answer.json()).lines.join("\n");
    } catch { /* the reason alone, then */ }
  }

  async function look() {
    if (leaving) return;
    let status;
    try {
      const answer = await fetch("/.flow/status", { cache: "no-store" });
      if (answer.status === 404) {
        unfollow();
        show("refused", "There is no such flow any more.");
        return;
      }
      if (!answer.ok) return;
      status = await answer.json();
    } catch {
      return; // the manager restarts: ask again
    }
    if (leaving) return;
    expected = status.expected_start;
    if (status.ready) go();
    else if (status.flow_state === "starting" || status.flow_state === "stopping") {
      if (mode() !== "waking") show("waking", "Waking up…");
      if (!source) follow(null);
    } else if (status.desired === "stopped") {
      unfollow();
      show("refused", "It is stopped.", status.error || "Somebody stopped this flow; it has to be started by hand.");
    } else if (status.flow_state === "error") {
      if (mode() !== "failed") fail(status.error);
    } else if (mode() !== "asleep") {
      show("asleep", "It is asleep.");
    }
  }

  at("again").addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    const button = at("again").querySelector("button");
    button.disabled = true;
    try {
      const answer = await fetch("/.flow/wake", { method: "POST", headers: { Accept: "application/json" } });
      const told = await answer.json();
      if (!answer.ok) {
        at("reason").textContent = told.detail;
        later(told.retry_after || 1);
        return;
      }
      at("lines").textContent = "";
      at("steps").replaceChildren();
      begun = now();
      show("waking", "Waking up…");
      follow(told.last_event_id);
      setTimeout(look, FIRST_LOOK);
    } catch {
      at("reason").textContent = "The flow manager doesn't answer.";
      later(3);
    }
  });

  // Held back after a failure: count down, then let them try again.
  function later(left) {
    const button = at("again").querySelector("button");
    button.disabled = left > 0 && mode() !== "waking";
    button.textContent = button.disabled ? "Try again in " + left + " s" : "Try again";
    if (button.disabled) setTimeout(later, 1000, left - 1);
  }

  if (mode() === "refused") return;
  if (mode() === "waking") follow(page.after);
  tick();
  setInterval(tick, 200);
  setTimeout(look, FIRST_LOOK);
  setInterval(look, LOOK_EVERY);
})();
