"use strict";
// Shows what the server sends. File names are untrusted: they only ever become text, never markup.

const $ = (id) => document.getElementById(id);
let view = null;
let clockOffset = 0;
let known = new Map();

/** An element; children are elements or text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Text without control and direction characters, which could hide a part of it. */
function shown(name) {
  return name.replace(
    /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (c) => "\\u{" + c.charCodeAt(0).toString(16) + "}",
  );
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Updates the children of `list` to match `items`, and keeps existing ones, so that the focus stays. */
function fill(list, items, key, create, update) {
  const old = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let place = list.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let child = old.get(name);
    if (child) {
      old.delete(name);
    } else {
      child = create(item);
      child.dataset.key = name;
    }
    update(child, item);
    if (child === place) {
      place = place.nextElementSibling;
    } else {
      list.insertBefore(child, place);
    }
  }
  for (const child of old.values()) child.remove();
}

const now = () => Date.now() + clockOffset;

function span(seconds) {
  if (seconds < 10) return seconds.toFixed(1) + " s";
  if (seconds < 120) return Math.round(seconds) + " s";
  if (seconds < 7200) return Math.floor(seconds / 60) + " min";
  if (seconds < 172800) return Math.floor(seconds / 3600) + " h";
  return Math.floor(seconds / 86400) + " days";
}

function ago(time) {
  const seconds = Math.floor((now() - Date.parse(time)) / 1000);
  const away = Math.abs(seconds);
  if (away < 2) return "just now";
  if (away >= 129600) return new Date(time).toLocaleString();
  const text = away < 10 ? away + " s" : span(away);
  return seconds < 0 ? "in " + text : text + " ago";
}

/** A scheduled time, which is "now" when it is due. */
function upcoming(time) {
  return Date.parse(time) - now() < 2000 ? "now" : ago(time);
}

/** A relative time that is kept up to date. */
function when(time, before = "", after = "", relative = ago) {
  const element = make("time", { datetime: time, title: new Date(time).toLocaleString() });
  element.dataset.before = before;
  element.dataset.after = after;
  element.dataset.upcoming = relative === upcoming;
  element.textContent = before + relative(time) + after;
  return element;
}

setInterval(() => {
  for (const element of document.querySelectorAll("time[data-before]")) {
    const relative = element.dataset.upcoming === "true" ? upcoming : ago;
    setText(element, element.dataset.before + relative(element.dateTime) + element.dataset.after);
  }
}, 1000);

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return (unit === 0 ? count : count.toFixed(1)) + " " + units[unit];
}

const tones = { synchronized: "good", synchronized_with_issues: "warn", uploaded: "good", unchanged: "good", failed: "bad", vanished: "warn" };

function fileButton(item, id) {
  const button = make("button", { type: "button", class: "link" }, shown(item.path));
  button.addEventListener("click", () => openHistory(id));
  return button;
}

async function send(button, command, done) {
  button.disabled = true;
  try {
    const answer = await fetch("/api/command", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(command),
    });
    if (!answer.ok) throw new Error(await answer.text());
    announceText(done);
  } catch (error) {
    announceText("Command failed: " + error.message);
    problem("Command failed: " + error.message);
  } finally {
    button.disabled = false;
  }
}

function announceText(text) {
  $("announcements").textContent = text;
}

function problem(text) {
  $("connection").textContent = text;
  $("connection").hidden = text === "";
}

function commandButton(label, name, command, done) {
  const button = make("button", { type: "button", "aria-label": label + " " + shown(name) }, label);
  button.addEventListener("click", () => send(button, command, done));
  return button;
}

const counted = (count, one, many) => count + " " + (count === 1 ? one : many);

function showSummary() {
  const sum = (name) => view.watches.reduce((all, watch) => all + (watch.files[name] || 0), 0);
  const watches = (is) => view.watches.filter((watch) => watch.configured && is(watch)).length;
  const overdue = (watch) => (watch.blocked_by && watch.blocked_by.overdue) || (watch.last_run && watch.last_run.overdue);
  // The same wording as the first line of `itwin-syncd status`.
  const severe = [
    [sum("failed"), "file failed", "files failed"],
    [watches((watch) => watch.root === "unavailable"), "folder unavailable", "folders unavailable"],
    [sum("unreadable"), "file cannot be opened", "files cannot be opened"],
    [watches(overdue), "watch waiting for an overdue run", "watches waiting for an overdue run"],
  ].filter(([count]) => count > 0);
  const minor = [
    [watches((watch) => watch.root === "degraded"), "folder degraded", "folders degraded"],
    [watches((watch) => watch.paused_at), "watch paused", "watches paused"],
    [watches((watch) => watch.suspended_reason && !watch.paused_at), "watch suspended", "watches suspended"],
    [sum("synchronized_with_issues"), "file synchronized with issues", "files synchronized with issues"],
  ].filter(([count]) => count > 0);
  const progress = [
    [sum("working"), "file in progress", "files in progress"],
    [sum("waiting"), "file waiting", "files waiting"],
    [sum("settling"), "file being written", "files being written"],
  ].filter(([count]) => count > 0);
  const text = (parts) => parts.map((part) => counted(...part));
  const outage = view.platform_outage;
  const problems = [...(outage ? ["platform not available since " + new Date(outage.since).toLocaleString() + " (" + shown(outage.reason) + ")"] : []),
    ...view.undelivered.map((one) => "messages of " + shown(one.receiver) + " not delivered since " + new Date(one.since).toLocaleString() + " (" + shown(one.reason) + ")"),
    ...text([...severe, ...minor])];
  const done = sum("synchronized");
  const rest = [...text(progress), done === 0 ? "no file synchronized yet" : counted(done, "file synchronized", "files synchronized")];
  const tone = outage || view.undelivered.length || severe.length ? "bad" : minor.length ? "warn" : progress.length ? "work" : "good";
  $("summary").className = "summary " + tone;
  setText($("summary"), (problems.length ? "ATTENTION: " + problems.join(", ") : "OK: nothing needs attention") + "; " + rest.join(", "));
  const failed = sum("failed");
  document.title = (failed ? "(" + failed + " failed) " : "") + "itwin-syncd";
}

/** How far a run has got, with the files that it reads now. */
function runProgress(progress) {
  return shown(progress.text) + (progress.current.length ? ", now " + progress.current.map(shown).join(", ") : "");
}

function showBatch() {
  $("batch").hidden = !view.batch;
  setText($("batch"), view.batch ? view.batch.text : "");
}

function showWatches() {
  fill($("watches"), view.watches, (watch) => watch.name, (watch) => {
    const pause = make("button", { type: "button" });
    pause.addEventListener("click", () => {
      const current = view.watches.find((other) => other.name === watch.name);
      const stopped = current && current.suspended_reason;
      send(pause, { command: stopped ? "resume" : "pause", watches: [watch.name] }, watch.name + (stopped ? " resumed" : " paused"));
    });
    return make("li", {},
      make("h3", {}, watch.name),
      make("p", { class: "counts" }),
      make("p", { class: "folder" }),
      make("p", { class: "suspended warn" }),
      make("p", { class: "run" }),
      make("ul", { class: "unfinished quiet" }),
      make("div", { class: "buttons" },
        commandButton("Rescan", watch.name, { command: "rescan", watches: [watch.name] }, watch.name + ": scan started"),
        pause));
  }, (item, watch) => {
    const [, counts, folder, suspended, run, unfinished, buttons] = item.children;
    const files = watch.files;
    const list = [["synchronized", files.synchronized, "good"], ["with issues", files.synchronized_with_issues, "warn", true],
      ["gone", files.gone, "quiet", true], ["uploaded only", files.uploaded, "good", true],
      ["being written", files.settling, "work", true], ["unreadable", files.unreadable, "bad", true], ["waiting", files.waiting, "work"], ["in progress", files.working, "work"],
      ["failed", files.failed, "bad"], ["ignored", files.ignored, "quiet"]]
      .filter(([, count, , optional]) => count !== null && !(optional && !count));
    fill(counts, list, ([name]) => name,
      ([name]) => make("span", {}, make("b"), " " + name),
      (child, [, count, tone]) => {
        setText(child.firstChild, String(count));
        child.className = count ? tone : "quiet";
      });
    const states = { ok: "Folder ok", polled: "Folder ok, scanned at intervals", degraded: "Folder degraded", unavailable: "Folder unavailable" };
    const note = watch.note && watch.root !== "polled" ? ": " + shown(watch.note) : "";
    folder.className = "folder " + (watch.root === "unavailable" ? "bad" : watch.root === "degraded" ? "warn" : "quiet");
    folder.replaceChildren((states[watch.root] || watch.root) + note + "; ");
    if (!watch.configured) {
      folder.replaceChildren("No longer configured");
    } else if (watch.scanned_at) {
      folder.append(when(watch.scanned_at, "scanned "));
      if (watch.scanning) folder.append(", scan in progress");
      else if (watch.next_scan) folder.append(", ", when(watch.next_scan, "next scan ", "", upcoming));
    } else {
      folder.append("not scanned yet");
    }
    if (watch.spatial_root) folder.append("; " + shown(watch.spatial_root.text) + (watch.spatial_root.hint ? ": " + shown(watch.spatial_root.hint) : ""));
    for (const wait of watch.waits) folder.append("; " + shown(wait.text));
    if (watch.named_version) folder.append("; " + shown(watch.named_version.text) + (watch.named_version.hint ? ": " + shown(watch.named_version.hint) : ""));
    if (watch.settings) folder.append("; " + shown(watch.settings.reason) + (watch.settings.hint ? ": " + shown(watch.settings.hint) : ""));
    for (const one of watch.deletions) folder.append("; " + one.state + ": " + shown(one.reason) + (one.hint ? ": " + shown(one.hint) : ""));
    if (watch.source_files) folder.append("; iModel: " + watch.source_files.text + (watch.source_files.hint ? ": " + watch.source_files.hint : ""));
    for (const former of watch.former_imodels || []) folder.append("; " + former.text + ": " + former.hint);
    setText(suspended, watch.paused_at ? "Paused" : watch.suspended_reason ? "Suspended: " + shown(watch.suspended_reason) : "");
    suspended.hidden = !watch.suspended_reason;
    run.hidden = !watch.last_run;
    if (watch.last_run) {
      const last = watch.last_run;
      run.className = "run " + (last.ended_at && !/^success$/i.test(last.result || "") ? "bad" : "quiet");
      if (last.ended_at) run.replaceChildren("Last run: " + shown(last.result || "unknown result") + ", ", when(last.ended_at, "ended "), ", took " + span(last.seconds));
      else run.replaceChildren("Run in progress, ", when(last.requested_at, "requested "), last.overdue ? ", overdue" : "",
        last.usual_seconds === null ? "" : ", usually takes " + span(last.usual_seconds), last.progress ? "; " + runProgress(last.progress) : "");
    }
    if (watch.blocked_by) {
      const other = watch.blocked_by;
      run.hidden = false;
      run.className = "run " + (other.overdue ? "bad" : "warn");
      run.replaceChildren("Blocked by run " + shown(other.run) + " of connection " + shown(other.connection) + ", ",
        when(other.since, "first seen active "), other.overdue ? ", overdue" : "");
    }
    fill(unfinished, watch.unfinished, (file) => file.path, () => make("li"),
      (child, file) => setText(child, shown(file.path) + ": " + (file.reason ? shown(file.reason) + "; retrying" + (file.hint ? "; hint: " + shown(file.hint) : "") : "still being written")));
    buttons.hidden = !watch.configured;
    setText(buttons.lastChild, watch.suspended_reason ? "Resume" : "Pause");
    buttons.lastChild.setAttribute("aria-label", (watch.suspended_reason ? "Resume " : "Pause ") + watch.name);
  });
}

function showFailed() {
  const all = view.watches.reduce((sum, watch) => sum + watch.files.failed, 0);
  $("failed-section").hidden = view.failed.length === 0;
  setText($("failed-title"), "Failed (" + all + ")");
  $("failed-more").hidden = all <= view.failed.length;
  setText($("failed-more"), "Showing the latest " + view.failed.length + ".");
  fill($("failed"), view.failed, (file) => file.id, (file) => make("li", { class: "card-failed" },
    make("h3", {}, fileButton(file, file.id)),
    make("p", { class: "reason" }),
    make("p", { class: "hint" }),
    make("p", { class: "quiet" }),
    make("div", { class: "buttons" },
      commandButton("Retry", file.path, { command: "retry", files: [file.id] }, "Retrying " + shown(file.path)))),
  (item, file) => {
    const [, reason, hint, next] = item.children;
    setText(reason, shown(file.reason || ""));
    setText(hint, shown(file.hint || ""));
    hint.hidden = !file.hint;
    const watch = "Watch " + file.watch + ". ";
    if (file.next_attempt) next.replaceChildren(watch, when(file.next_attempt, "Next attempt ", "", upcoming), ".");
    else next.replaceChildren(watch + "Retried when the file changes.");
  });
}

function showOpen() {
  const all = view.watches.reduce((sum, watch) => sum + watch.files.waiting + watch.files.working, 0);
  $("open-section").hidden = view.open.length === 0;
  $("open-more").hidden = all <= view.open.length;
  setText($("open-more"), "Showing " + view.open.length + " of " + all + ".");
  fill($("open"), view.open, (file) => file.id, (file) => make("li", {},
    make("span", { class: "what work" }),
    make("span", { class: "name" }, fileButton(file, file.id)),
    make("span", { class: "when" }),
    make("div", { class: "progress" }, make("progress", { max: "100", "aria-label": "Upload of " + shown(file.path) })),
    make("p", { class: "note" })),
  (item, file) => {
    const [what, , time, progress, note] = item.children;
    setText(what, file.status);
    const upload = view.uploads.find((other) => other.watch === file.watch && other.path === file.path);
    progress.hidden = !upload;
    if (upload) {
      progress.firstChild.value = upload.percent;
      const left = upload.bytes_per_second ? ", " + span(Math.ceil((upload.bytes - upload.sent) / upload.bytes_per_second)) + " left" : "";
      time.replaceChildren(upload.percent + " % of " + bytes(upload.bytes) + ", " + bytes(upload.bytes_per_second) + "/s" + left);
    } else if (file.seen_at) {
      time.replaceChildren(when(file.seen_at, "detected "));
    }
    note.hidden = !file.reason;
    if (file.reason) {
      note.replaceChildren(shown(file.reason) + (file.hint ? ". Hint: " + shown(file.hint) : ""));
      if (file.next_attempt) note.append(". ", when(file.next_attempt, "Next attempt ", "", upcoming));
    }
  });
}

function showResults() {
  $("results-none").hidden = view.results.length > 0;
  $("results").hidden = view.results.length === 0;
  fill($("results"), view.results, (result) => result.file + " " + result.at, (result) => make("li", {},
    make("span", { class: "what " + (tones[result.result] || "quiet") }, result.result),
    make("span", { class: "name" }, fileButton(result, result.file)),
    make("span", { class: "when" }, when(result.at, result.watch + ", ", ", took " + span(result.seconds)))),
  () => {});
}

function showRuns() {
  $("runs-section").hidden = view.runs.length === 0;
  const runs = [...view.runs].reverse();
  const ended = runs.filter((run) => run.seconds !== null);
  const longest = Math.max(1, ...ended.map((run) => run.seconds));
  const good = (run) => /^success$/i.test(run.result || "");
  const bad = ended.filter((run) => !good(run)).length;
  setText($("runs-summary"), runs.length + (runs.length === 1 ? " run" : " runs") + ", " + (bad ? bad + " not successful" : "all successful") + "; the longest took " + span(longest) + ".");
  const width = 600 / Math.max(runs.length, 20);
  const svg = "http://www.w3.org/2000/svg";
  const bars = runs.map((run, index) => {
    const seconds = run.seconds === null ? longest : run.seconds;
    const height = Math.max(3, seconds / longest * 110);
    const bar = document.createElementNS(svg, "rect");
    for (const [name, value] of Object.entries({ x: index * width + 1, y: 120 - height, width: Math.max(1, width - 2), height })) {
      bar.setAttribute(name, String(value));
    }
    bar.setAttribute("class", run.ended_at === null ? "work" : good(run) ? "good" : "bad");
    const title = document.createElementNS(svg, "title");
    title.textContent = (run.ended_at === null ? "in progress" : shown(run.result || "ended") + ", " + span(run.seconds)) + ", " + run.files + " files, " + new Date(run.requested_at).toLocaleString();
    bar.append(title);
    return bar;
  });
  $("chart").replaceChildren(...bars);
  fill($("runs"), view.runs, (run) => run.requested_at + (run.id || ""), (run) => make("tr", {},
    make("td", {}, new Date(run.requested_at).toLocaleString()), make("td"), make("td", {}, String(run.files)), make("td"), make("td", {}, run.id || "")),
  (row, run) => {
    setText(row.children[1], run.ended_at === null ? "in progress" : shown(run.result || "ended"));
    setText(row.children[3], run.seconds === null ? "" : span(run.seconds));
  });
}

/** Announces changes to screen readers. */
function announce() {
  const states = new Map();
  for (const result of [...view.results].reverse()) states.set(result.file, [result.path, result.result]);
  for (const file of [...view.open, ...view.failed]) states.set(file.id, [file.path, file.state === "failed" ? "failed" : ""]);
  const changes = [];
  for (const [id, [path, state]] of states) {
    if (known.size && state && (known.get(id) || [])[1] !== state) changes.push(shown(path) + " " + state);
  }
  known = states;
  if (changes.length > 3) announceText(changes.length + " files changed state");
  else if (changes.length) announceText(changes.join(", "));
}

function show(text) {
  const state = JSON.parse(text);
  view = state.view;
  clockOffset = Date.parse(state.now) - Date.now();
  const daemon = view.daemon;
  $("daemon").replaceChildren("Version " + daemon.version + ", ", when(daemon.since, "started "));
  showSummary();
  showBatch();
  showFailed();
  showWatches();
  showOpen();
  showResults();
  showRuns();
  announce();
}

let historyOf = null;

async function openHistory(id) {
  try {
    const answer = await fetch("/api/file?id=" + encodeURIComponent(id));
    if (!answer.ok) throw new Error(await answer.text());
    const answered = await answer.json();
    historyOf = id;
    const file = answered.file;
    setText($("history-title"), shown(file.path));
    setText($("history-state"), "Watch " + file.watch + ": " + file.status);
    const facts = [["Connector", file.connector], ["Storage file", file.storage_file_id], ["In storage", file.bytes === null ? null : bytes(file.bytes)]];
    $("history-facts").replaceChildren(...facts.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
    $("history-lines").replaceChildren(...answered.history.map((line) => {
      const item = make("li", {}, make("time", { datetime: line.at }, new Date(line.at).toLocaleString()),
        make("span", { class: tones[line.what] || "" }, line.text + (line.seconds === null ? "" : ", " + span(line.seconds) + " after it was queued")));
      if (line.note) item.append(make("p", { class: "reason" }, shown(line.note)));
      if (line.hint) item.append(make("p", { class: "hint" }, shown(line.hint)));
      if (line.run && line.version === null) item.append(make("p", { class: "quiet" }, "run " + line.run));
      return item;
    }));
    if (!$("history").open) $("history").showModal();
  } catch (error) {
    problem("Cannot show the history of the file: " + error.message);
  }
}

$("history-close").addEventListener("click", () => $("history").close());
$("history").addEventListener("close", () => { historyOf = null; });
$("retry-all").addEventListener("click", () => send($("retry-all"), { command: "retry_failed" }, "Retrying all failed files"));

const events = new EventSource("/api/events");
events.addEventListener("state", (event) => {
  problem("");
  show(event.data);
  if (historyOf) openHistory(historyOf);
});
events.addEventListener("error", () => problem("The service does not respond; the page may be outdated. Reconnecting."));
