// Follows the events of the service. As a shared worker, it keeps one stream for all tabs of a browser: browsers open
// at most six connections to one host, so a stream per tab would block the seventh tab. Without shared workers, a tab
// follows the events by itself while it is visible.

/** The service sends a sign of life every 15 s. */
const SILENCE_MS = 40_000;
const RETRY_MS = 2_000;

/**
 * Follows the events and calls `emit` with: `{kind: "state", text}`; `{kind: "down", since, text}` when the connection
 * is lost, and again while it stays lost; `{kind: "locked", text, status}` when the token is missing or rejected. Then
 * it waits for `unlock`.
 */
export function follow(emit) {
  let token = null;
  let active = false;
  let controller = null;
  let wait = null;
  let lastSign = Date.now();

  async function read(signal, alive) {
    const headers = token ? { Authorization: "Bearer " + token } : {};
    const answer = await fetch("/api/v1/events", { headers, signal, cache: "no-store" });
    alive();
    if (!answer.ok) {
      const problem = await answer.json().catch(() => ({ error: "HTTP " + answer.status }));
      throw Object.assign(new Error(problem.error), { locked: [401, 429].includes(answer.status), status: answer.status });
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the service closed the connection");
      alive();
      rest += value;
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
        if (data.length) emit({ kind: "state", text: data.join("\n") });
      }
    }
  }

  async function attempt() {
    const own = new AbortController();
    controller = own;
    let silence = null;
    const alive = () => {
      lastSign = Date.now();
      clearTimeout(silence);
      silence = setTimeout(() => own.abort(), SILENCE_MS);
    };
    silence = setTimeout(() => own.abort(), SILENCE_MS);
    try {
      await read(own.signal, alive);
    } catch (error) {
      if (controller !== own || !active) return;
      if (error.locked) {
        active = false;
        emit({ kind: "locked", text: error.message, status: error.status });
        return;
      }
      emit({ kind: "down", since: lastSign, text: error.name === "TypeError" || error.name === "AbortError" ? "" : error.message });
      wait = setTimeout(attempt, RETRY_MS);
    } finally {
      clearTimeout(silence);
    }
  }

  return {
    start() {
      if (active) return;
      active = true;
      attempt();
    },
    stop() {
      active = false;
      clearTimeout(wait);
      const own = controller;
      controller = null;
      if (own) own.abort();
    },
    /** Uses this token from now on; null: none. */
    unlock(next) {
      const changed = next !== token;
      token = next;
      if (changed && active) this.stop();
      this.start();
    },
  };
}

if (typeof SharedWorkerGlobalScope !== "undefined" && self instanceof SharedWorkerGlobalScope) {
  const tabs = new Set();
  let last = null;
  const stream = follow((message) => {
    last = message;
    for (const tab of tabs) tab.postMessage(message);
  });
  self.addEventListener("connect", (event) => {
    const tab = event.ports[0];
    tab.onmessage = ({ data }) => {
      if (data.kind === "bye") {
        tabs.delete(tab);
        if (tabs.size === 0) {
          stream.stop();
          last = null;
        }
      } else {
        tabs.add(tab);
        // A tab that was opened without a token has the one of the others.
        if (last && last.kind !== "locked") tab.postMessage(last);
        if (!last || data.token !== null) stream.unlock(data.token);
        else if (last.kind === "locked") tab.postMessage(last);
        else stream.start();
      }
    };
  });
}
