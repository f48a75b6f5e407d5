"use strict";
// Shows what the server sends. Names of files come from anybody: they only ever become text, never markup.

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

/** Text that cannot run against its direction or hide a part of itself. */
function shown(name) {
  return name.replace(
    /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (c) => "\\u{" + c.charCodeAt(0).toString(16) + "}",
  );
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Brings the children of `list` in line with `items`, and keeps those that stay, so that the focus does. */
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

/** A time that stays true while it is looked at. */
function when(time, before = "", after = "") {
  const element = make("time", { datetime: time, title: new Date(time).toLocaleString() });
  element.dataset.before = before;
  element.dataset.after = after;
  element.textContent = before + ago(time) + after;
  return element;
}

setInterval(() => {
  for (const element of document.querySelectorAll("time[data-before]")) {
    setText(element, element.dataset.before + ago(element.dateTime) + element.dataset.after);
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

const tones = { synchronized: "good", synchronized_with_issues: "held", uploaded: "good", unchanged: "good", failed: "bad", vanished: "held" };

function fileButton(item, id) {
  const button = make("button", { type: "button", class: "link" }, shown(item.path));
  button.addEventListener("click", () => openStory(id));
  return button;
}

async function act(button, what, told) {
  button.disabled = true;
  try {
    const answer = await fetch("/api/act", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(what),
    });
    if (!answer.ok) throw new Error(await answer.text());
    say(told);
  } catch (error) {
    say("It did not work: " + error.message);
    problem("It did not work: " + error.message);
  } finally {
    button.disabled = false;
  }
}

function say(text) {
  $("news").textContent = text;
}

function problem(text) {
  $("connection").textContent = text;
  $("connection").hidden = text === "";
}

function actButton(label, name, what, told) {
  const button = make("button", { type: "button", "aria-label": label + " " + shown(name) }, label);
  button.addEventListener("click", () => act(button, what, told));
  return button;
}

function showSummary() {
  const sum = (name) => view.watches.reduce((all, watch) => all + (watch.files[name] || 0), 0);
  const [failed, working, waiting] = [sum("failed"), sum("working"), sum("waiting")];
  const settling = sum("settling");
  const held = view.watches.filter((watch) => watch.held_reason).length;
  const away = view.watches.filter((watch) => watch.configured && watch.root === "unavailable").length;
  const parts = [];
  if (failed) parts.push(failed === 1 ? "1 file failed" : failed + " files failed");
  if (away) parts.push(away === 1 ? "1 folder cannot be reached" : away + " folders cannot be reached");
  const issues = sum("synchronized_with_issues");
  const overdue = view.watches.filter((watch) => (watch.blocked_by && watch.blocked_by.overdue) || (watch.last_run && watch.last_run.overdue)).length;
  if (overdue) parts.push(overdue === 1 ? "1 watch waits for an overdue run" : overdue + " watches wait for an overdue run");
  if (issues) parts.push(issues === 1 ? "1 file is synchronized with issues" : issues + " files are synchronized with issues");
  if (held) parts.push(held === 1 ? "1 watch is held" : held + " watches are held");
  if (working) parts.push(working === 1 ? "1 file is on its way" : working + " files are on their way");
  if (waiting) parts.push(waiting + " waiting");
  if (settling) parts.push(settling + " being written");
  const done = sum("synchronized");
  const tone = failed || away || overdue ? "bad" : held || issues ? "held" : parts.length ? "work" : "good";
  parts.push(done === 0 ? "no file is synchronized yet" : done === 1 ? "1 file is synchronized" : done + " files are synchronized");
  $("summary").className = "summary " + tone;
  setText($("summary"), (tone === "good" ? "All well: " : "") + parts.join(", ") + ".");
  document.title = (failed ? "(" + failed + " failed) " : "") + "itwin-syncd";
}

function showWatches() {
  fill($("watches"), view.watches, (watch) => watch.name, (watch) => {
    const pause = make("button", { type: "button" });
    pause.addEventListener("click", () => {
      const current = view.watches.find((other) => other.name === watch.name);
      const held = current && current.held_reason;
      act(pause, { act: held ? "resume" : "pause", watches: [watch.name] }, watch.name + (held ? " goes on" : " is paused"));
    });
    return make("li", {},
      make("h3", {}, watch.name),
      make("p", { class: "counts" }),
      make("p", { class: "folder" }),
      make("p", { class: "held" }),
      make("p", { class: "run" }),
      make("ul", { class: "unfinished quiet" }),
      make("div", { class: "buttons" },
        actButton("Rescan", watch.name, { act: "rescan", watches: [watch.name] }, watch.name + " is being scanned"),
        pause));
  }, (item, watch) => {
    const [, counts, folder, held, run, unfinished, buttons] = item.children;
    const files = watch.files;
    const list = [["synchronized", files.synchronized, "good"], ["with issues", files.synchronized_with_issues, "held", true],
      ["gone", files.gone, "quiet", true], ["stored only", files.uploaded, "good", true],
      ["being written", files.settling, "work", true], ["waiting", files.waiting, "work"], ["working", files.working, "work"],
      ["failed", files.failed, "bad"], ["ignored", files.ignored, "quiet"]]
      .filter(([, count, , optional]) => count !== null && !(optional && !count));
    fill(counts, list, ([name]) => name,
      ([name]) => make("span", {}, make("b"), " " + name),
      (child, [, count, tone]) => {
        setText(child.firstChild, String(count));
        child.className = count ? tone : "quiet";
      });
    const words = { ok: "Folder ok", polled: "Folder ok, scanned at intervals", degraded: "Folder only partly watched", unavailable: "Folder cannot be reached" };
    const note = watch.note && watch.root !== "polled" ? ": " + shown(watch.note) : "";
    folder.className = "folder " + (watch.root === "unavailable" ? "bad" : watch.root === "degraded" ? "held" : "quiet");
    folder.replaceChildren((words[watch.root] || watch.root) + note + "; ");
    if (!watch.configured) {
      folder.replaceChildren("Not in the configuration any more");
    } else if (watch.scanned_at) {
      folder.append(when(watch.scanned_at, "scanned "));
      if (watch.scanning) folder.append(", being scanned now");
      else if (watch.next_scan) folder.append(", ", when(watch.next_scan, "next "));
    } else {
      folder.append("not scanned yet");
    }
    setText(held, watch.held_reason ? (watch.paused_at ? "Paused: " : "Held: ") + shown(watch.held_reason) : "");
    held.hidden = !watch.held_reason;
    run.hidden = !watch.last_run;
    if (watch.last_run) {
      const last = watch.last_run;
      run.className = "run " + (last.ended_at && !/^success$/i.test(last.result || "") ? "bad" : "quiet");
      if (last.ended_at) run.replaceChildren("Last run: " + shown(last.result || "ended") + ", ", when(last.ended_at), ", took " + span(last.seconds));
      else run.replaceChildren("Run under way, ", when(last.requested_at, "requested "), last.overdue ? ", overdue" : "");
    }
    if (watch.blocked_by) {
      const other = watch.blocked_by;
      run.hidden = false;
      run.className = "run " + (other.overdue ? "bad" : "held");
      run.replaceChildren("Waits for run " + shown(other.run) + " of connection " + shown(other.connection) + ", ",
        when(other.since, "active since "), other.overdue ? ", overdue" : "");
    }
    fill(unfinished, watch.unfinished, (file) => file.path, () => make("li"),
      (child, file) => setText(child, shown(file.path) + (file.busy ? ": cannot be opened now" : ": still being written")));
    buttons.hidden = !watch.configured;
    setText(buttons.lastChild, watch.held_reason ? "Resume" : "Pause");
    buttons.lastChild.setAttribute("aria-label", (watch.held_reason ? "Resume " : "Pause ") + watch.name);
  });
}

function showFailed() {
  const all = view.watches.reduce((sum, watch) => sum + watch.files.failed, 0);
  $("failed-section").hidden = view.failed.length === 0;
  setText($("failed-title"), "Failed (" + all + ")");
  $("failed-more").hidden = all <= view.failed.length;
  setText($("failed-more"), "The latest " + view.failed.length + " are shown.");
  fill($("failed"), view.failed, (file) => file.id, (file) => make("li", { class: "card-failed" },
    make("h3", {}, fileButton(file, file.id)),
    make("p", { class: "reason" }),
    make("p", { class: "hint" }),
    make("p", { class: "quiet" }),
    make("div", { class: "buttons" },
      actButton("Retry", file.path, { act: "retry", files: [file.id] }, shown(file.path) + " is tried again"))),
  (item, file) => {
    const [, reason, hint, next] = item.children;
    setText(reason, shown(file.reason || ""));
    setText(hint, shown(file.hint || ""));
    hint.hidden = !file.hint;
    const watch = "Watch " + file.watch + ". ";
    if (file.next_attempt) next.replaceChildren(watch, when(file.next_attempt, "Tried again "), ".");
    else next.replaceChildren(watch + "Tried again when the file changes.");
  });
}

function showOpen() {
  const all = view.watches.reduce((sum, watch) => sum + watch.files.waiting + watch.files.working, 0);
  $("open-section").hidden = view.open.length === 0;
  $("open-more").hidden = all <= view.open.length;
  setText($("open-more"), view.open.length + " of " + all + " are shown.");
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
      time.replaceChildren(when(file.seen_at, "seen "));
    }
    note.hidden = !file.reason;
    if (file.reason) {
      note.replaceChildren(shown(file.reason) + (file.hint ? ". To do: " + shown(file.hint) : ""));
      if (file.next_attempt) note.append(". ", when(file.next_attempt, "Tried again "));
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
  setText($("runs-told"), runs.length + (runs.length === 1 ? " run" : " runs") + (bad ? ", " + bad + " not good" : ", all good") + "; the longest took " + span(longest) + ".");
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
    title.textContent = (run.ended_at === null ? "under way" : shown(run.result || "ended") + ", " + span(run.seconds)) + ", " + run.files + " files, " + new Date(run.requested_at).toLocaleString();
    bar.append(title);
    return bar;
  });
  $("chart").replaceChildren(...bars);
  fill($("runs"), view.runs, (run) => run.requested_at + (run.id || ""), (run) => make("tr", {},
    make("td", {}, new Date(run.requested_at).toLocaleString()), make("td"), make("td", {}, String(run.files)), make("td"), make("td", {}, run.id || "")),
  (row, run) => {
    setText(row.children[1], run.ended_at === null ? "under way" : shown(run.result || "ended"));
    setText(row.children[3], run.seconds === null ? "" : span(run.seconds));
  });
}

/** Says to those who do not see it what has changed. */
function announce() {
  const states = new Map();
  for (const result of [...view.results].reverse()) states.set(result.file, [result.path, result.result]);
  for (const file of [...view.open, ...view.failed]) states.set(file.id, [file.path, file.state === "failed" ? "failed" : ""]);
  const news = [];
  for (const [id, [path, state]] of states) {
    if (known.size && state && (known.get(id) || [])[1] !== state) news.push(shown(path) + " " + state);
  }
  known = states;
  if (news.length > 3) say(news.length + " files have news");
  else if (news.length) say(news.join(", "));
}

function show(text) {
  const told = JSON.parse(text);
  view = told.view;
  clockOffset = Date.parse(told.now) - Date.now();
  const daemon = view.daemon;
  $("daemon").replaceChildren("Version " + daemon.version + ", ", when(daemon.since, "started "));
  showSummary();
  showFailed();
  showWatches();
  showOpen();
  showResults();
  showRuns();
  announce();
}

let storyOf = null;

async function openStory(id) {
  try {
    const answer = await fetch("/api/file?id=" + encodeURIComponent(id));
    if (!answer.ok) throw new Error(await answer.text());
    const told = await answer.json();
    storyOf = id;
    const file = told.file;
    setText($("story-title"), shown(file.path));
    setText($("story-state"), "Watch " + file.watch + ": " + file.status);
    const facts = [["Connector", file.connector], ["Storage file", file.storage_file_id], ["In storage", file.bytes === null ? null : bytes(file.bytes)]];
    $("story-facts").replaceChildren(...facts.filter(([, value]) => value).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
    $("story-lines").replaceChildren(...told.story.map((line) => {
      const item = make("li", {}, make("time", { datetime: line.at }, new Date(line.at).toLocaleString()),
        make("span", { class: tones[line.what] || "" }, line.text + (line.seconds === null ? "" : ", " + span(line.seconds) + " after it was finished")));
      if (line.note) item.append(make("p", { class: "reason" }, shown(line.note)));
      if (line.hint) item.append(make("p", { class: "hint" }, shown(line.hint)));
      if (line.run && line.version === null) item.append(make("p", { class: "quiet" }, "run " + line.run));
      return item;
    }));
    if (!$("story").open) $("story").showModal();
  } catch (error) {
    problem("The story of the file cannot be shown: " + error.message);
  }
}

$("story-close").addEventListener("click", () => $("story").close());
$("story").addEventListener("close", () => { storyOf = null; });
$("retry-all").addEventListener("click", () => act($("retry-all"), { act: "retry_failed" }, "All that failed are tried again"));

const events = new EventSource("/api/events");
events.addEventListener("state", (event) => {
  problem("");
  show(event.data);
  if (storyOf) openStory(storyOf);
});
events.addEventListener("error", () => problem("The service does not answer; what is shown may be old. Trying again."));
