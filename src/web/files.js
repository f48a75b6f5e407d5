// Failures by their reason, and lists of files, page by page.

import { get, post } from "/api.js";
import { $, counted, fill, focusHeading, make, setText, shown, upcoming, when } from "/dom.js";

/** Files that a list grows by. */
const PAGE = 50;

/** The most files that one request may ask for. */
const LIMIT_MAX = 200;

/** Files of a list that are read again after a change; the rest is dropped. */
const RENEWED_MAX = 1000;

let openHistory = () => {};
let announce = () => {};
let report = () => {};

/** The lists of files that are open below groups, by the key of the group. */
const lists = new Map();

/** The command that a button has sent and that is not answered yet. */
const unanswered = new WeakMap();

/**
 * Sends a command, once. The button stays focusable meanwhile, so the focus stays. It may get another command before the
 * answer: the events that the first one causes can be faster.
 */
export async function send(button, path, body, done) {
  if (unanswered.get(button) === path) return;
  unanswered.set(button, path);
  button.setAttribute("aria-disabled", "true");
  try {
    const { count } = await post("/api/v1/" + path, body);
    announce(done(count));
    report("");
  } catch (error) {
    report("Command failed: " + error.message);
  } finally {
    if (unanswered.get(button) === path) {
      unanswered.delete(button);
      button.removeAttribute("aria-disabled");
    }
  }
}

export function commandButton(label, name, path, body, done) {
  const button = make("button", { type: "button", "aria-label": label + " " + shown(name), "data-control": label }, label);
  button.addEventListener("click", () => send(button, path, body, () => done));
  return button;
}

export function fileButton(path, id) {
  const button = make("button", { type: "button", class: "link", "data-control": "history" }, shown(path));
  button.addEventListener("click", () => openHistory(id));
  return button;
}

function nextAttempt(file) {
  if (file.next_attempt) return when(file.next_attempt, "next attempt ", "", upcoming);
  return file.state === "failed" ? "retried when the file changes" : "";
}

/** A list of files that grows by pages. `query`: parameters of the request. */
class FileList {
  constructor(query, withReason) {
    this.query = query;
    this.withReason = withReason;
    this.files = [];
    this.next = null;
    this.number = 0;
    // More files were asked for, and are not there yet.
    this.growing = false;
    // What is announced when the answer is there.
    this.said = null;
    this.list = make("ul", { class: "rows files" });
    this.none = make("p", { class: "quiet", hidden: "" });
    this.more = make("button", { type: "button", hidden: "" }, "Show more");
    this.more.addEventListener("click", () => this.load(1, true, () => counted(this.files.length, "file shown", "files shown")));
    this.element = make("div", {}, this.list, this.none, this.more);
  }

  /** Reads at least so many files, if there are so many: the first ones again, or more after those that are shown. */
  async load(least, append, said) {
    const number = ++this.number;
    this.growing ||= append;
    this.said = said || this.said;
    const limit = String(Math.min(LIMIT_MAX, Math.ceil(least / PAGE) * PAGE));
    let files = append ? this.files : [];
    let next = append ? this.next : null;
    try {
      do {
        const query = new URLSearchParams({ ...this.query, limit });
        if (next) query.set("after", next);
        const page = await get("/api/v1/files?" + query);
        files = [...files, ...page.files];
        next = page.next;
        least -= page.files.length;
        // A page of a search may be empty although there are more.
      } while (next && least > 0);
    } catch (error) {
      if (number !== this.number) return;
      this.growing = false;
      this.said = null;
      report("Cannot list the files: " + error.message);
      return;
    }
    if (number !== this.number) return;
    const before = { count: this.files.length, growing: this.growing, said: this.said };
    this.growing = false;
    this.said = null;
    this.files = files;
    this.next = next;
    this.show();
    if (before.growing && !next && document.activeElement === this.more) {
      const first = this.list.children[before.count];
      if (first) first.querySelector("button").focus();
    }
    this.more.hidden = !next;
    const text = before.said && before.said();
    if (text) announce(text);
  }

  /** Reads what is shown again, and more if that was asked for meanwhile: the request for it no longer counts. */
  renew() {
    const least = Math.max(1, this.files.length) + (this.growing ? 1 : 0);
    return this.load(Math.min(RENEWED_MAX, least), false);
  }

  show() {
    this.none.hidden = this.files.length > 0;
    setText(this.none, "No file fits.");
    fill(this.list, this.files, (file) => file.id, (file) => make("li", {},
      make("span", { class: "what" }),
      make("span", { class: "name" }, fileButton(file.path, file.id)),
      make("span", { class: "when" }),
      make("div", { class: "retry" }),
      make("p", { class: "note" })),
    (item, file) => {
      const [what, , time, retry, note] = item.children;
      what.className = "what " + (file.state === "failed" ? "bad" : file.state === "done" ? "quiet" : "work");
      setText(what, file.status);
      time.replaceChildren(file.watch + (nextAttempt(file) ? ", " : ""), nextAttempt(file));
      const retryable = file.state === "failed" || (file.state !== "done" && file.reason);
      if (retryable && !retry.firstChild) {
        retry.append(commandButton("Retry", file.path, "retry", { files: [file.id] }, "Retrying " + shown(file.path)));
      } else if (!retryable && retry.firstChild) {
        if (retry.contains(document.activeElement)) item.querySelector("button.link").focus();
        retry.replaceChildren();
      }
      note.hidden = !file.reason || !this.withReason;
      setText(note, note.hidden ? "" : shown(file.reason) + (file.hint ? ". Hint: " + shown(file.hint) : ""));
    });
  }
}

function groupItem(group) {
  const title = make("h3");
  const retry = make("button", { type: "button", "data-control": "retry group" });
  const toggle = make("button", { type: "button", "aria-expanded": "false", "data-control": "files" }, "Show files");
  const item = make("li", { class: "card-failed" },
    title,
    make("p", { class: "hint" }),
    make("p", { class: "quiet" }),
    make("p", { class: "examples" }),
    make("div", { class: "buttons" }, retry, toggle));
  retry.addEventListener("click", () => send(retry, "retry", { group: group.key }, (count) => "Retrying " + counted(count, "file", "files")));
  toggle.addEventListener("click", () => {
    const open = lists.get(group.key);
    if (open) {
      open.element.remove();
      lists.delete(group.key);
    } else {
      const list = new FileList({ group: group.key }, false);
      lists.set(group.key, list);
      item.append(list.element);
      list.load(1, false);
    }
    toggle.setAttribute("aria-expanded", String(!open));
    setText(toggle, open ? "Show files" : "Hide files");
    item.querySelector(".examples").hidden = !open;
  });
  return item;
}

function updateGroup(item, group) {
  const [title, hint, facts, examples, buttons] = item.children;
  setText(title, shown(group.text));
  setText(hint, shown(group.hint || ""));
  hint.hidden = !group.hint;
  const waiting = group.retrying ? counted(group.failed, "failed", "failed") + ", " + counted(group.retrying, "waits", "wait") + " for another attempt. " : "";
  facts.replaceChildren(waiting + "Watch " + group.watches.join(", ") + ". ");
  if (group.since) facts.append(when(group.since, "First failure ", ". "));
  if (group.next_attempt) facts.append(when(group.next_attempt, "Next attempt ", ".", upcoming));
  else facts.append("Retried when a file changes.");
  fill(examples, group.examples, (file) => file.id, (file) => make("span", {}, fileButton(file.path, file.id)), () => {});
  examples.hidden = lists.has(group.key);
  const [retry, toggle] = buttons.children;
  const label = "Retry " + counted(group.files, "file", "files");
  setText(retry, label);
  retry.setAttribute("aria-label", label + ": " + shown(group.reason));
  toggle.hidden = group.files <= 1;
}

let counts = "";
let timer = null;
let found = null;

/** The lists that are open are renewed soon after a change, and not more often than once a second. */
function renewSoon() {
  if (timer !== null) return;
  timer = setTimeout(() => {
    timer = null;
    for (const list of [...lists.values(), ...(found ? [found] : [])]) list.renew();
  }, 1000);
}

/** Shows failures. */
export function showFailures(view) {
  const sum = (name) => view.watches.reduce((all, watch) => all + (watch.files[name] || 0), 0);
  const failed = sum("failed");
  setText($("failed-title"), "Failures (" + failed + ")");
  if (failed === 0 && document.activeElement === $("retry-all")) focusHeading($("failed-title"));
  $("retry-all").hidden = failed === 0;
  $("failed-none").hidden = failed > 0 || view.failure_groups.length > 0 || found !== null;
  fill($("groups"), view.failure_groups, (group) => group.key, groupItem, updateGroup);
  for (const [key] of lists) {
    if (!view.failure_groups.some((group) => group.key === key)) lists.delete(key);
  }
  $("groups").hidden = found !== null;
  $("groups-more").hidden = view.more_failure_groups === 0 || found !== null;
  setText($("groups-more"), "And " + counted(view.more_failure_groups, "more reason", "more reasons") + "; find their files by watch or path.");
  const select = $("filter-watch");
  const names = ["", ...view.watches.map((watch) => watch.name)];
  if (names.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
    const chosen = select.value;
    select.replaceChildren(...names.map((name) => make("option", { value: name }, name || "all watches")));
    select.value = names.includes(chosen) ? chosen : "";
  }
  const next = JSON.stringify([view.failure_groups.map((group) => [group.key, group.failed, group.retrying]), view.watches.map((watch) => watch.files)]);
  if (counts && next !== counts) renewSoon();
  counts = next;
}

let view = null;

function applyFilter() {
  const query = { state: $("filter-state").value };
  if ($("filter-watch").value) query.watch = $("filter-watch").value;
  const text = $("filter-text").value.trim();
  if (text) query.search = text;
  // Without a filter, failures are shown by their reason.
  found = Object.keys(query).length === 1 && query.state === "failed" ? null : new FileList(query, true);
  $("found").replaceChildren(...(found ? [found.element] : []));
  $("found").hidden = found === null;
  const list = found;
  if (list) list.load(1, false, () => list === found && counted(list.files.length, "file found", "files found") + (list.next ? ", there are more" : ""));
  if (view) showFailures(view);
}

/** Connects the controls. `history(id)` shows the history of a file, `say` announces a text, `fail` shows a problem. */
export function startFiles({ history, say, fail, current }) {
  openHistory = history;
  announce = say;
  report = fail;
  const apply = () => {
    view = current();
    applyFilter();
  };
  let typing = null;
  $("filter").addEventListener("submit", (event) => event.preventDefault());
  $("filter-state").addEventListener("change", apply);
  $("filter-watch").addEventListener("change", apply);
  $("filter-text").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(apply, 300);
  });
  $("retry-all").addEventListener("click", () => send($("retry-all"), "retry", { all_failed: true }, (count) => "Retrying " + counted(count, "file", "files")));
}
