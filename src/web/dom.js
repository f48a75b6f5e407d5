// Builds and updates the page. File names are untrusted: they only ever become text, never markup.

export const $ = (id) => document.getElementById(id);

/** An element; children are elements or text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Text without control and direction characters, which could hide a part of it. */
export function shown(name) {
  return name.replace(
    /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (c) => "\\u{" + c.charCodeAt(0).toString(16) + "}",
  );
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Updates the children of `list` to match `items`. Existing ones stay, and so does the focus. */
export function fill(list, items, key, create, update) {
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
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
  for (const child of old.values()) {
    if (focused && child.contains(focused)) leave(list, child, focused);
    child.remove();
  }
  // Moving an element takes the focus from it.
  if (focused && focused.isConnected && document.activeElement !== focused && document.activeElement === document.body) focused.focus();
}

/** Moves the focus from an item that ends to the same control of its neighbor, or to the heading of the section. */
function leave(list, child, focused) {
  const neighbor = child.nextElementSibling || child.previousElementSibling;
  const controls = neighbor ? [...neighbor.querySelectorAll("button, a[href]")].filter((control) => control.checkVisibility()) : [];
  const target = controls.find((control) => control.dataset.control === focused.dataset.control) || controls[0];
  if (target) target.focus();
  else focusHeading(list);
}

/** Moves the focus to the heading of the section that an element is in. */
export function focusHeading(element) {
  const section = element.closest("section, aside");
  const heading = section && !section.hidden && section.querySelector("h2");
  const target = heading || $("main");
  target.tabIndex = -1;
  target.focus();
}

let clockOffset = 0;

/** The clock of the service, which all times refer to. */
export function setClock(time) {
  clockOffset = Date.parse(time) - Date.now();
}

const now = () => Date.now() + clockOffset;

export function span(seconds) {
  if (seconds < 10) return seconds.toFixed(1) + " s";
  if (seconds < 120) return Math.round(seconds) + " s";
  if (seconds < 7200) return Math.floor(seconds / 60) + " min";
  if (seconds < 172800) return Math.floor(seconds / 3600) + " h";
  return Math.floor(seconds / 86400) + " days";
}

export function ago(time) {
  const seconds = Math.floor((now() - Date.parse(time)) / 1000);
  const away = Math.abs(seconds);
  if (away < 2) return "just now";
  if (away >= 129600) return new Date(time).toLocaleString();
  const text = away < 10 ? away + " s" : span(away);
  return seconds < 0 ? "in " + text : text + " ago";
}

/** A scheduled time, which is "now" when it is due. */
export function upcoming(time) {
  return Date.parse(time) - now() < 2000 ? "now" : ago(time);
}

/** A relative time that is kept up to date. */
export function when(time, before = "", after = "", relative = ago) {
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

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return (unit === 0 ? count : count.toFixed(1)) + " " + units[unit];
}

export const counted = (count, one, many) => count + " " + (count === 1 ? one : many);
