// Bar charts with axes, as SVG. Each has a table with the same numbers beside it.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const LEFT = 58;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 26;

function node(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  if (text !== undefined) element.textContent = text;
  return element;
}

/** About four round values from 0 to `most` or a little more. `steps`: the sizes that count as round. */
function ticks(most, steps) {
  let step = steps.find((one) => most / one <= 4);
  if (step === undefined) {
    step = 10 ** Math.floor(Math.log10(most));
    step = [0.5, 1, 2, 5].map((one) => one * step).find((one) => most / one <= 4) || step * 10;
  }
  const found = [0];
  while (found[found.length - 1] < most) found.push(found[found.length - 1] + step);
  return found;
}

const COUNT_STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400];

function axisTime(seconds) {
  if (seconds === 0) return "0";
  if (seconds < 60) return seconds + " s";
  if (seconds < 3600) return seconds / 60 + " min";
  return seconds / 3600 + " h";
}

/**
 * Draws bars into `svg`. `bars`: `{label, title, parts: [{value, tone}]}`, where the parts of a bar are stacked, or
 * beside each other with `beside`. `kind`: "count" or "seconds".
 */
export function draw(svg, { bars, kind, beside = false }) {
  const width = Math.max(260, svg.clientWidth || 700);
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const total = (bar) => beside ? Math.max(0, ...bar.parts.map((part) => part.value)) : bar.parts.reduce((sum, part) => sum + part.value, 0);
  const lines = ticks(Math.max(1, ...bars.map(total)), kind === "count" ? COUNT_STEPS : TIME_STEPS);
  const most = lines[lines.length - 1];
  const inner = HEIGHT - TOP - BOTTOM;
  const y = (value) => TOP + inner - value / most * inner;
  const drawn = [];
  for (const line of lines) {
    drawn.push(node("line", { class: line === 0 ? "axis" : "grid", x1: LEFT, x2: width - RIGHT, y1: y(line), y2: y(line) }));
    drawn.push(node("text", { class: "label", x: LEFT - 8, y: y(line) + 4, "text-anchor": "end" }, kind === "count" ? line.toLocaleString() : axisTime(line)));
  }
  const slot = (width - LEFT - RIGHT) / Math.max(bars.length, 12);
  // Labels do not overlap: each needs this much room.
  const every = Math.max(1, Math.ceil(76 / slot));
  bars.forEach((bar, index) => {
    const group = node("g", {});
    group.append(node("title", {}, bar.title));
    // The whole slot shows the title, also above a low bar.
    group.append(node("rect", { class: "slot", x: LEFT + index * slot, y: TOP, width: slot, height: inner }));
    const gap = Math.min(4, slot / 5);
    const each = (slot - gap) / (beside ? Math.max(1, bar.parts.length) : 1);
    let base = 0;
    bar.parts.forEach((part, place) => {
      if (part.value <= 0) return;
      const top = y(base + part.value);
      const height = Math.max(1.5, y(base) - top);
      group.append(node("rect", { class: part.tone, x: LEFT + index * slot + gap / 2 + (beside ? place * each : 0), y: y(base) - height, width: Math.max(1, each - (beside ? 1 : 0)), height }));
      if (!beside) base += part.value;
    });
    drawn.push(group);
    if (index % every === 0) {
      drawn.push(node("text", { class: "label", x: LEFT + index * slot + slot / 2, y: HEIGHT - 8, "text-anchor": index === 0 ? "start" : "middle" }, bar.label));
    }
  });
  svg.replaceChildren(...drawn);
}
