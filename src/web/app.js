// The page: shows the state that the service sends, and sends commands.

import { currentToken, get, openToken, setToken, tokenChanged } from "/api.js";
import { draw } from "/chart.js";
import { $, bytes, counted, fill, make, setClock, setText, shown, span, upcoming, when } from "/dom.js";
import { commandButton, fileButton, send, showFailures, startFiles } from "/files.js";
import { follow } from "/stream.js";

const VERSION = document.querySelector("meta[name=version]").content;

/** Pause between two requests for the history. */
const HISTORY_MS = 20_000;

let view = null;
let places = new Map();
let known = new Map();
let down = null;

const tones = { synchronized: "good", synchronized_with_issues: "warn", uploaded: "good", unchanged: "good", failed: "bad", vanished: "warn" };

function announceText(text) {
  $("announcements").textContent = text;
}

function problem(text) {
  setText($("problem"), text);
  $("problem").hidden = text === "";
}

function showTitle() {
  const failed = view ? view.watches.reduce((all, watch) => all + watch.files.failed, 0) : 0;
  const what = down ? "(no connection) " : failed ? "(" + failed + " failed) " : view && !view.ok ? "(!) " : "";
  document.title = what + "itwin-syncd" + (view ? " on " + view.host : "");
}

function showSummary() {
  const count = (is) => view.watches.some((watch) => watch.configured && is(watch));
  const sum = (name) => view.watches.reduce((all, watch) => all + (watch.files[name] || 0), 0);
  const overdue = (watch) => (watch.blocked_by && watch.blocked_by.overdue) || (watch.last_run && watch.last_run.overdue);
  const severe = view.ledger_outage || view.platform_outage || view.undelivered.length || sum("failed") || sum("unreadable")
    || count((watch) => watch.root === "unavailable") || count(overdue);
  $("summary").className = "summary " + (view.ok ? (view.batch ? "work" : "good") : severe ? "bad" : "warn");
  const details = [];
  const since = (time) => " since " + new Date(time).toLocaleString();
  if (view.nodes.length > 1) details.push("hosts: " + view.nodes.map((node) => shown(node.host) + (node.active ? " active" : " standby")
    + since(node.since) + ", uploads: " + node.uploads + (node.responds ? "" : ", does not respond")).join("; "));
  if (view.standby) details.push("standby; active: " + shown(view.standby.active) + since(view.standby.since)
    + (view.standby.uploads ? "; uploads as well" : "")
    + (view.standby.different_watches.length ? "; watches of this host differ: " + view.standby.different_watches.map(shown).join(", ") : ""));
  if (view.ledger_outage) details.push("ledger not available" + since(view.ledger_outage.since) + ": " + shown(view.ledger_outage.reason)
    + "; " + shown(view.ledger_outage.hint));
  if (view.platform_outage) details.push("platform not available" + since(view.platform_outage.since) + ": " + shown(view.platform_outage.reason));
  for (const one of view.undelivered) details.push("messages of " + shown(one.receiver) + " not delivered" + since(one.since) + ": " + shown(one.reason));
  setText($("summary"), [view.summary, ...details].join("; "));
}

/** How far a run has got, with the files that it reads now. */
function runProgress(progress) {
  return shown(progress.text) + (progress.current.length ? ", now " + progress.current.map(shown).join(", ") : "");
}

function showBatch() {
  $("batch").hidden = !view.batch;
  if (!view.batch) return;
  setText($("batch-text"), view.batch.text);
  const { uploaded, files } = view.batch;
  $("batch-progress").value = files ? Math.round(uploaded / files * 100) : 0;
}

/** The folder of a watch, and its iModel with a link to the portal. */
function showPlace(place, watch) {
  const known = places.get(watch.name);
  const [text, link] = place.children;
  const name = known && known.imodel_name ? shown(known.imodel_name) : watch.imodel_id;
  const url = known && known.portal_url && known.portal_url.startsWith("https://") ? known.portal_url : null;
  setText(text, (known && known.folder ? shown(known.folder) + " → " : "") + (url ? "" : "iModel " + name));
  setText(link, url ? "iModel " + name : "");
  link.hidden = url === null;
  if (url !== null && link.getAttribute("href") !== url) link.href = url;
  link.title = watch.imodel_id;
}

function showWatches() {
  fill($("watches"), view.watches, (watch) => watch.name, (watch) => {
    const pause = make("button", { type: "button" });
    pause.addEventListener("click", () => {
      const current = view.watches.find((other) => other.name === watch.name);
      const stopped = current && current.suspended_reason;
      send(pause, stopped ? "resume" : "pause", { watches: [watch.name] }, () => watch.name + (stopped ? " resumed" : " paused"));
    });
    return make("li", {},
      make("h3", {}, watch.name),
      make("p", { class: "place" }, make("span"), make("a", { target: "_blank", rel: "noreferrer" })),
      make("p", { class: "counts" }),
      make("p", { class: "folder" }),
      make("p", { class: "suspended warn" }),
      make("p", { class: "run" }),
      make("ul", { class: "unfinished quiet" }),
      make("div", { class: "buttons" },
        commandButton("Rescan", watch.name, "rescan", { watches: [watch.name] }, watch.name + ": scan started"),
        pause));
  }, (item, watch) => {
    const [, place, counts, folder, suspended, run, unfinished, buttons] = item.children;
    showPlace(place, watch);
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
    if (watch.owner) folder.append("; " + shown(watch.owner.reason) + ": " + shown(watch.owner.hint));
    if (watch.rival) folder.append("; " + shown(watch.rival.reason) + ": " + shown(watch.rival.hint));
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

function showOpen() {
  const all = view.watches.reduce((sum, watch) => sum + watch.files.waiting + watch.files.working, 0);
  setText($("open-title"), "In progress (" + all + ")");
  $("open-none").hidden = view.open.length > 0;
  $("open").hidden = view.open.length === 0;
  $("open-more").hidden = all <= view.open.length;
  setText($("open-more"), "Showing " + view.open.length + " of " + all + "; find others under Failures with “files in progress”.");
  fill($("open"), view.open, (file) => file.id, (file) => make("li", {},
    make("span", { class: "what work" }),
    make("span", { class: "name" }, fileButton(file.path, file.id)),
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
    make("span", { class: "name" }, fileButton(result.path, result.file)),
    make("span", { class: "when" }, when(result.at, result.watch + ", ", ", took " + span(result.seconds)))),
  () => {});
}

/** What the chart says of a run. */
const isGood = (run) => /^success$/i.test(run.result || "");

function showRuns() {
  $("runs-section").hidden = view.runs.length === 0;
  if (view.runs.length === 0) return;
  const runs = [...view.runs].reverse();
  const ended = runs.filter((run) => run.seconds !== null);
  const longest = Math.max(0, ...ended.map((run) => run.seconds));
  const bad = ended.filter((run) => !isGood(run)).length;
  setText($("runs-summary"), counted(runs.length, "run", "runs") + " since " + new Date(runs[0].requested_at).toLocaleString() + ", "
    + (bad ? bad + " not successful" : "all successful") + "; the longest took " + span(longest) + ".");
  const clock = (time) => new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  draw($("runs-chart"), {
    kind: "seconds",
    bars: runs.map((run) => ({
      label: clock(run.requested_at),
      title: new Date(run.requested_at).toLocaleString() + ": " + (run.ended_at === null ? "in progress" : shown(run.result || "ended") + ", " + span(run.seconds)) + ", " + counted(run.files, "file", "files"),
      parts: [{ value: run.seconds === null ? run.elapsed_seconds || longest : run.seconds, tone: run.ended_at === null ? "work" : isGood(run) ? "good" : "bad" }],
    })),
  });
  fill($("runs"), view.runs, (run) => run.requested_at + (run.id || ""), (run) => make("tr", {},
    make("td", {}, new Date(run.requested_at).toLocaleString()), make("td"), make("td", {}, String(run.files)), make("td"), make("td", {}, run.id || "")),
  (row, run) => {
    setText(row.children[1], run.ended_at === null ? "in progress" : shown(run.result || "ended"));
    setText(row.children[3], run.seconds === null ? "" : span(run.seconds));
  });
}

let days = [];
let daysRead = 0;
let daysAt = "";

function showDays() {
  const stored = (results) => results.uploaded + results.unchanged + results.renamed;
  const total = (of) => days.reduce((sum, day) => sum + of(day), 0);
  const label = (day) => new Date(day.date + "T12:00").toLocaleDateString([], { day: "numeric", month: "short" });
  const seconds = (durations, name) => durations ? span(durations[name]) : "";
  draw($("files-chart"), {
    kind: "count",
    bars: days.map((day) => {
      const { synchronized, synchronized_with_issues: issues, failed } = day.results;
      return {
        label: label(day),
        title: label(day) + ": " + synchronized + " synchronized, " + issues + " with issues, " + stored(day.results) + " stored or unchanged, " + failed + " failed",
        parts: [{ value: synchronized, tone: "good" }, { value: issues, tone: "warn" }, { value: stored(day.results), tone: "work" }, { value: failed, tone: "bad" }],
      };
    }),
  });
  setText($("files-summary"), counted(days.length, "day", "days") + ": " + total((day) => day.results.synchronized + day.results.synchronized_with_issues) + " synchronized, "
    + total((day) => stored(day.results)) + " stored or unchanged, " + total((day) => day.results.failed) + " failed.");
  draw($("seconds-chart"), {
    kind: "seconds",
    beside: true,
    bars: days.map((day) => ({
      label: label(day),
      title: label(day) + ": " + (day.file_seconds ? "a file took " + span(day.file_seconds.average) + ", at most " + span(day.file_seconds.longest) : "no file")
        + "; " + (day.run_seconds ? counted(day.runs, "run", "runs") + " of " + span(day.run_seconds.average) + ", at most " + span(day.run_seconds.longest) : "no run"),
      parts: [{ value: day.file_seconds ? day.file_seconds.average : 0, tone: "good" }, { value: day.run_seconds ? day.run_seconds.average : 0, tone: "work" }],
    })),
  });
  const longest = Math.max(0, ...days.map((day) => day.file_seconds ? day.file_seconds.longest : 0));
  setText($("seconds-summary"), counted(total((day) => day.runs), "run", "runs") + ", " + total((day) => day.unsuccessful_runs) + " not successful; the longest file took " + span(longest) + ".");
  fill($("days-table"), [...days].reverse(), (day) => day.date, () => make("tr", {}, make("th", { scope: "row" }), ...Array.from({ length: 10 }, () => make("td"))),
    (row, day) => [day.date, day.results.synchronized, day.results.synchronized_with_issues, stored(day.results), day.results.failed,
      seconds(day.file_seconds, "average"), seconds(day.file_seconds, "longest"), day.runs, day.unsuccessful_runs,
      seconds(day.run_seconds, "average"), seconds(day.run_seconds, "longest")].forEach((text, index) => setText(row.children[index], String(text))));
}

let daysTimer = null;

/** Reads the history when there are new results, now or when the last look is long enough ago. */
function readDaysSoon() {
  const at = (view.results[0] ? view.results[0].at : "") + (view.runs[0] ? view.runs[0].ended_at : "");
  if (at === daysAt && days.length) return;
  if (daysTimer !== null) return;
  daysTimer = setTimeout(() => {
    daysTimer = null;
    daysAt = at;
    if (view) readDays();
  }, Math.max(0, daysRead + HISTORY_MS - Date.now()));
}

async function readDays() {
  daysRead = Date.now();
  try {
    days = (await get("/api/v1/history?days=" + $("days").value)).days;
    showDays();
  } catch (error) {
    problem("Cannot show the history: " + error.message);
  }
}

/** Announces changes to screen readers. */
function announce() {
  const states = new Map();
  for (const result of [...view.results].reverse()) states.set(result.file, [result.path, result.result]);
  for (const file of view.open) states.set(file.id, [file.path, ""]);
  const changes = [];
  for (const [id, [path, state]] of states) {
    if (known.size && state && (known.get(id) || [])[1] !== state) changes.push(shown(path) + " " + state);
  }
  known = states;
  if (changes.length > 3) announceText(changes.length + " files changed state");
  else if (changes.length) announceText(changes.join(", "));
}

function show(text) {
  view = JSON.parse(text);
  if (view.daemon.version !== VERSION) {
    location.reload();
    return;
  }
  setClock(view.now);
  places = new Map(view.places.map((place) => [place.watch, place]));
  setText($("host"), "on " + view.host);
  $("daemon").replaceChildren("Version " + view.daemon.version + ", ", when(view.daemon.since, "started "));
  unlocked();
  showTitle();
  showSummary();
  showBatch();
  showWatches();
  showFailures(view);
  showOpen();
  showResults();
  showRuns();
  readDaysSoon();
  announce();
  if (historyOf) openHistory(historyOf);
}

let historyOf = null;

async function openHistory(id) {
  try {
    const answered = await get("/api/v1/files/" + encodeURIComponent(id));
    historyOf = id;
    const file = answered.file;
    setText($("file-title"), shown(file.path));
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

/** Says since when there is no connection, until there is one. */
function showConnection() {
  const banner = $("connection");
  banner.hidden = down === null;
  if (down !== null) {
    const since = new Date(down.since);
    const minutes = Math.floor((Date.now() - down.since) / 60_000);
    const ago = minutes ? " (" + span(minutes * 60) + ")" : "";
    setText(banner, "No connection to the service since " + since.toLocaleTimeString() + ago + ": it is stopped or cannot be reached"
      + (down.text ? " (" + shown(down.text) + ")" : "") + ". " + (view ? "The page shows what was known then. " : "") + "Trying again.");
  }
  showTitle();
}

function unlocked() {
  $("login").hidden = true;
  $("top").hidden = false;
  $("main").hidden = false;
  $("sign-out").hidden = currentToken() === null;
}

/** Asks for the token. */
function locked(text, status) {
  // A wrong token is forgotten; with 429 (too many attempts) it was not even checked.
  if (status === 401 && currentToken() !== null && !tokenChanged()) setToken(null);
  if ($("history").open) $("history").close();
  down = null;
  showConnection();
  view = null;
  $("top").hidden = true;
  $("main").hidden = true;
  $("sign-out").hidden = true;
  $("daemon").replaceChildren();
  setText($("login-text"), text === "the token is missing" ? "" : shown(text));
  if ($("login").hidden) {
    $("login").hidden = false;
    $("token").focus();
  }
}

function receive(message) {
  if (message.kind === "locked") {
    locked(message.text, message.status);
  } else if (message.kind === "down") {
    down = message;
    showConnection();
  } else {
    const recovered = down !== null;
    down = null;
    show(message.text);
    if (recovered) announceText("Connected to the service again");
    showConnection();
  }
}

/** One stream for all tabs, or else one for this tab while it is visible. */
function connect() {
  try {
    const worker = new SharedWorker("/stream.js", { type: "module", name: "itwin-syncd " + VERSION });
    worker.port.onmessage = (event) => receive(event.data);
    const hello = () => worker.port.postMessage({ kind: "hello", token: currentToken() });
    addEventListener("pagehide", () => worker.port.postMessage({ kind: "bye" }));
    addEventListener("pageshow", (event) => event.persisted && hello());
    return hello;
  } catch {
    const stream = follow(receive);
    document.addEventListener("visibilitychange", () => document.hidden ? stream.stop() : stream.unlock(currentToken()));
    return () => document.hidden || stream.unlock(currentToken());
  }
}

openToken(locked);
startFiles({ history: openHistory, say: announceText, fail: problem, current: () => view });
const hello = connect();
hello();

$("history-close").addEventListener("click", () => $("history").close());
$("history").addEventListener("close", () => { historyOf = null; });
$("days").addEventListener("change", () => view && readDays());
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value.trim());
  $("token").value = "";
  hello();
});
$("sign-out").addEventListener("click", () => {
  setToken(null);
  location.reload();
});
// An address with a token, opened in a tab that shows the page already.
addEventListener("hashchange", () => {
  const before = currentToken();
  if (openToken(locked) !== before) hello();
});
// The token of this browser was entered or removed in another tab.
addEventListener("storage", () => tokenChanged() && (currentToken() === null ? location.reload() : hello()));
// What scrolls below the header begins below it.
new ResizeObserver(() => document.documentElement.style.setProperty("--header", $("top").parentElement.offsetHeight + 8 + "px")).observe($("top").parentElement);
let resizing = null;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => {
    if (view === null) return;
    showRuns();
    if (days.length) showDays();
  }, 200);
});
setInterval(() => down !== null && showConnection(), 5_000);
